"""What was measured on this home's machines: ``bench.json``. No torch here."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from statistics import median, quantiles
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from adarelu_sweep.benchmarking.processor import processor_name
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.training.settings import TrialSettings

GAIN = 1.05
"""How many times the throughput of a smaller pack a larger one has to have to be better."""


_SHAPE = {"height", "width", "channels", "classes"}


class Spread(BaseModel):
    """A median and what half of the values lie between."""

    model_config = ConfigDict(frozen=True)

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Return that of one value or more."""
        low, _, high = quantiles(values, n=4, method="inclusive") if values[1:] else values * 3
        return cls(median=median(values), lower_quartile=low, upper_quartile=high)


class Conditions(BaseModel):
    """All that decides how fast a network is trained and evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """What its maker calls it."""
    threads: int | None
    """None on a GPU, where one launches the work."""
    network: str
    activation: str
    height: int
    width: int
    channels: int
    classes: int
    batch_size: int
    evaluation_batch_size: int
    precision: str
    channels_last: bool
    deterministic: bool
    optimizer: str
    augmentation: str
    pack: int = 1
    """How many trials are trained together."""

    @classmethod
    def of(cls, slot: Slot, settings: TrialSettings, shape: Shape, pack: int = 1) -> "Conditions":
        """Return those of a trial in a slot, or of a pack of such trials."""
        return cls(
            device=device_of(slot),
            threads=None if slot.gpu else slot.threads,
            **_told_by(settings),
            height=shape.height,
            width=shape.width,
            channels=shape.channels,
            classes=shape.classes,
            pack=pack,
        )


class Measurement(BaseModel):
    """Throughputs under some conditions; of a pack that of all its trials together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conditions: Conditions
    training_images_per_second: Spread
    evaluation_images_per_second: Spread
    measured: date
    versions: dict[str, str]


class Measurements(BaseModel):
    """All measurements of a home, one for the same conditions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    measurements: list[Measurement] = []

    @classmethod
    def read(cls, home: Home) -> "Measurements":
        """Return those of a home, none if nothing was ever measured.

        Raises UserError for a file that cannot be read, is damaged, or of another version.
        """
        path = home.bench_file
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except ValidationError:
            raise UserError(
                f"{path}: damaged, or of another version: delete it, and measure again"
            ) from None

    @classmethod
    def keep(cls, home: Home, newer: Iterable[Measurement]) -> None:
        """Add measurements to those of a home that is there, which others may do meanwhile.

        Raises UserError where that cannot be.
        """
        try:
            with FileLock(home.bench_lock):
                known = cls.read(home).with_newer(newer)
                write_atomically(home.bench_file, f"{known.model_dump_json(indent=1)}\n".encode())
        except OSError as error:
            raise UserError(f"{home.bench_file}: cannot be written ({error.strerror})") from None

    def with_newer(self, newer: Iterable[Measurement]) -> "Measurements":
        """Return these and others, which replace those of the same conditions."""
        by_conditions = {m.conditions: m for m in [*self.measurements, *newer]}
        return Measurements(measurements=list(by_conditions.values()))

    def under(self, conditions: Conditions) -> Measurement | None:
        """Return what was measured under some conditions."""
        found = (m for m in self.measurements if m.conditions == conditions)
        return next(found, None)

    def packs(self, conditions: Conditions) -> list[Measurement]:
        """Return what was measured of packs of any size, but for that under these conditions."""
        wanted = _but_for_pack(conditions)
        return [m for m in self.measurements if _but_for_pack(m.conditions) == wanted]

    def packs_of_another(self, conditions: Conditions) -> list[Measurement]:
        """Return the same of another activation, of which several sizes were measured.

        That of one trial alone is among them. For want of such, images of another shape will do,
        as they do for ``best_pack``. Of several the newest; none if there is none.
        """
        wanted, free = conditions.model_dump(), {"activation", "pack", *_SHAPE}
        families: dict[Conditions, list[Measurement]] = defaultdict(list)
        for one in self.measurements:
            told = one.conditions.model_dump(exclude=free)
            if told.items() <= wanted.items():
                families[_but_for_pack(one.conditions)].append(one)

        def fitness(packs: list[Measurement]) -> tuple[bool, date]:
            shape = packs[0].conditions.model_dump(include=_SHAPE)
            return shape.items() <= wanted.items(), max(one.measured for one in packs)

        compared = [packs for packs in families.values() if len(packs) > 1]
        compared = [packs for packs in compared if any(one.conditions.pack == 1 for one in packs)]
        return max(compared, key=fitness, default=[])


def best(packs: Iterable[Measurement]) -> Measurement:
    """Return the best size of a pack: the smallest that no larger one gains enough over."""
    first, *larger = sorted(packs, key=lambda m: m.conditions.pack)
    for one in larger:
        rates = [m.training_images_per_second.median for m in (one, first)]
        if rates[0] > GAIN * rates[1]:
            first = one
    return first


def best_pack(home: Home, device: str, settings: TrialSettings) -> int | None:
    """Return the best size of a pack of such trials, or None if no two sizes were compared.

    That of another activation will do, because the size depends on the network and its batches;
    so will that for images of another shape. Of several the newest counts.

    Args:
        home: Where what was measured is kept. What cannot be read there is not known.
        device: The GPU's model, or the processor's name.
        settings: A trial of the arm.
    """
    packs = _compared(home, device, settings, "pack")
    return best(packs).conditions.pack if packs else None


def bf16_over_fp32(home: Home, device: str, settings: TrialSettings) -> tuple[float, date] | None:
    """Return how many times fp32's throughput bf16 has, and the older day of the two.

    None if they were not both measured; what counts as such is as in ``best_pack``.
    """
    both = {one.conditions.precision: one for one in _compared(home, device, settings, "precision")}
    if not both:
        return None
    rates = {name: one.training_images_per_second.median for name, one in both.items()}
    return rates["bf16"] / rates["fp32"], min(one.measured for one in both.values())


def _but_for_pack(conditions: Conditions) -> Conditions:
    return conditions.model_copy(update={"pack": 1})


def device_of(slot: Slot) -> str:
    """Return the name under which what is measured in a slot is kept."""
    return slot.model if slot.gpu else processor_name()


def _compared(
    home: Home, device: str, settings: TrialSettings, by: Literal["pack", "precision"]
) -> list[Measurement]:
    """Return what was measured under conditions that differ in one alone; none if no two do.

    The conditions are those of such trials, but for the activation, the images' shape and what they
    are compared by: their own activation first, then the newest.
    """
    try:
        known = Measurements.read(home).measurements
    except UserError:
        return []
    told = _told_by(settings)
    own = told.pop("activation")
    told.pop(by, None)
    compared: dict[Conditions, list[Measurement]] = defaultdict(list)
    for one in known:
        if one.conditions.device == device and told.items() <= one.conditions.model_dump().items():
            compared[one.conditions.model_copy(update={by: None})].append(one)
    return max(
        (several for several in compared.values() if len(several) > 1),
        key=lambda several: (
            several[0].conditions.activation == own,
            max(one.measured for one in several),
        ),
        default=[],
    )


def _told_by(settings: TrialSettings) -> dict[str, Any]:
    """Return the conditions that the settings of a trial tell."""
    training = settings.training
    return {
        "network": settings.network.label,
        "activation": settings.activation.label,
        "batch_size": training.batch_size,
        "evaluation_batch_size": training.evaluation_batch_size,
        "precision": training.precision,
        "channels_last": training.channels_last,
        "deterministic": training.deterministic,
        "optimizer": training.optimizer.name,
        "augmentation": training.augmentation.label,
    }
