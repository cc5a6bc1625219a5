"""How long a study will take, worked out from what was measured. No torch here."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from adarelu_sweep.benchmarking.cases import trial_of
from adarelu_sweep.benchmarking.measured import Conditions, Measurement, Measurements, best
from adarelu_sweep.datasets.catalog import check
from adarelu_sweep.datasets.shape import shape_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.wording import count, duration


@dataclass(frozen=True)
class Images:
    """How many images the trials of an arm train on and are measured on, all epochs together."""

    trained: int
    measured: int

    @classmethod
    def of(cls, study: Study, data_folder: Path, dataset: str) -> "Images":
        """Return those of a study's arm on a data set.

        A search's trials count as if none was pruned; what they hold out they are measured on.
        """
        status = check(dataset, data_folder)
        train, test = status.limited(study.data.train_limit, study.data.test_limit)
        epochs = study.training.epochs
        trials = len(study.seeds())
        trained, measured = trials * train, trials * test
        if (search := study.search) and search.validation_fraction:
            held_out = min(max(round(search.validation_fraction * train), 1), train - 1)
            trained += search.trials * (train - held_out)
            measured += search.trials * held_out
        return cls(epochs * trained, epochs * measured)

    def seconds(self, pace: "Pace") -> float:
        """Return how long that takes at a pace."""
        return self.trained / pace.training + self.measured / pace.evaluation


@dataclass(frozen=True)
class Pace:
    """How fast the trials of an arm are, all together."""

    training: float
    """Images per second, as the other."""
    evaluation: float
    measured: date
    """When the oldest measurement was made that it follows from."""

    @classmethod
    def of(cls, one: Measurement) -> "Pace":
        """Return the pace that was measured."""
        training, evaluation = one.training_images_per_second, one.evaluation_images_per_second
        return cls(training.median, evaluation.median, one.measured)

    @classmethod
    def in_packs(cls, alone: Measurement, known: Measurements) -> "Pace":
        """Return that in packs of the best size of what was measured alone.

        ``bench`` measures packs of one activation of each network: the others gain as many times as
        that one over their own pace alone, because what a pack gains depends on the network and
        its batches. Those are the packs that ``--pack auto`` trains.
        """
        own = known.packs(alone.conditions)
        if len(own) > 1:
            return cls.of(best(own))
        if not (others := known.packs_of_another(alone.conditions)):
            return cls.of(alone)
        one, pack = cls.of(min(others, key=lambda m: m.conditions.pack)), cls.of(best(others))
        pace = cls.of(alone)
        return cls(
            pace.training * pack.training / one.training,
            pace.evaluation * pack.evaluation / one.evaluation,
            min(pace.measured, one.measured, pack.measured),
        )


@dataclass(frozen=True)
class Estimate:
    """How long all trials of a study take: training and evaluation, without what is around them."""

    seconds: float
    """With one trial at a time in a slot."""
    seconds_in_packs: float
    """With as many at a time as was measured to be best, of an arm or of another of its network."""
    slots: int
    measured: date
    """When the oldest of the measurements was made."""

    @classmethod
    def of(
        cls, study: Study, slots: list[Slot], measurements: Measurements, data_folder: Path
    ) -> "Estimate | None":
        """Return the estimate; None where something was not measured that it needs.

        Slots that share a GPU count as one: they divide what it does. A search's trials count with
        the settings of the study file.
        """
        arms = list(study.arms())
        images = {name: Images.of(study, data_folder, name) for name in study.matrix.dataset}
        shapes = {name: shape_of(name, data_folder) for name in study.matrix.dataset}
        trials = len(arms) * (len(study.seeds()) + (study.search.trials if study.search else 0))
        places = list({slot.gpu or str(slot.index): slot for slot in slots}.values())[:trials]
        oldest = date.max
        alone, packed = 0.0, 0.0  # studies per second, all places together
        for slot in places:
            seconds, seconds_in_packs = 0.0, 0.0
            for arm in arms:
                trial = trial_of(study, arm.dataset, arm.network, arm.activation)
                conditions = Conditions.of(slot, trial, shapes[arm.dataset])
                one = measurements.under(conditions)
                if one is None:
                    return None
                pack = Pace.in_packs(one, measurements)
                seconds += images[arm.dataset].seconds(Pace.of(one))
                seconds_in_packs += images[arm.dataset].seconds(pack)
                oldest = min(oldest, one.measured, pack.measured)
            alone += 1 / seconds
            packed += 1 / seconds_in_packs
        return cls(1 / alone, 1 / packed, len(slots), oldest)

    def __str__(self) -> str:
        where = f"on {count(self.slots, 'slot')}"
        if self.seconds_in_packs < self.seconds:
            where += f" in packs of the best size ({duration(self.seconds)} without)"
        least = min(self.seconds, self.seconds_in_packs)
        return f"about {duration(least)} {where}, as measured here on {self.measured}"


def time_needed(study: Study, slots: list[Slot], home: Home, data_folder: Path, bench: str) -> str:
    """Say how long a study takes by what the home knows, or that ``bench`` is the command to know.

    A file that cannot be read is no reason not to launch, and is told of here.
    """
    try:
        estimate = Estimate.of(study, slots, Measurements.read(home), data_folder)
    except UserError as error:
        return f"how long it takes is not known: {error}: {bench}"
    return str(estimate) if estimate else f"how long it takes is not known: {bench}"
