"""How long a study will take, worked out from what was measured. No torch here."""

from dataclasses import dataclass
from datetime import date
from math import ceil
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

    def times(self, pack: "Pace", one: "Pace") -> "Pace":
        """Return this pace with the gain that a pack of another arm has over one trial of it."""
        return Pace(
            self.training * pack.training / one.training,
            self.evaluation * pack.evaluation / one.evaluation,
            min(self.measured, one.measured, pack.measured),
        )


@dataclass(frozen=True)
class Images:
    """How many images some trials train on and are measured on, all epochs together."""

    trained: int
    measured: int

    def seconds(self, pace: Pace) -> float:
        """Return how long that takes at a pace."""
        return self.trained / pace.training + self.measured / pace.evaluation


@dataclass(frozen=True)
class Work:
    """What there is to do of an arm."""

    searched: Images
    """By all trials of its search, which go one by one."""
    seed: Images
    """By each trial that is reported."""
    seeds: int

    @classmethod
    def of(cls, study: Study, data_folder: Path, dataset: str) -> "Work":
        """Return that of a study's arm on a data set.

        A search's trials count as if none was pruned; what they hold out they are measured on.
        """
        status = check(dataset, data_folder)
        train, test = status.limited(study.data.train_limit, study.data.test_limit)
        epochs = study.training.epochs
        searched = Images(0, 0)
        if (search := study.search) and search.validation_fraction:
            held_out = min(max(round(search.validation_fraction * train), 1), train - 1)
            all_epochs = epochs * search.trials
            searched = Images(all_epochs * (train - held_out), all_epochs * held_out)
        return cls(searched, Images(epochs * train, epochs * test), len(study.seeds()))

    def spent(self, paces: "Paces", pack: int) -> "Spent":
        """Return how long it takes with up to so many seeds at once; the last pack has the rest."""
        full, rest = divmod(self.seeds, min(pack, self.seeds))
        spent = Spent(self.searched.seconds(paces.alone), paces.alone.measured)
        for packs, size in ((full, min(pack, self.seeds)), (1, rest)):
            if size:
                pace = paces.of(size)
                spent += Spent(packs * size * self.seed.seconds(pace), pace.measured)
        return spent


@dataclass(frozen=True)
class Spent:
    """Seconds, and the day of the oldest measurement that they follow from."""

    seconds: float = 0.0
    measured: date = date.max

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, min(self.measured, other.measured))


@dataclass(frozen=True)
class Paces:
    """How fast an arm is by how many of its trials are trained at once."""

    by_size: dict[int, Pace]
    """That of one alone is among them."""
    best: int

    @classmethod
    def known(cls, alone: Measurement, measurements: Measurements) -> "Paces":
        """Return those that follow from what was measured alone and in packs.

        ``bench`` measures packs of one activation of each network: the others gain as many times as
        that one over their own pace alone, because what a pack gains depends on the network and
        its batches. Those are the packs that ``--pack auto`` trains.
        """
        packs = measurements.packs(alone.conditions)
        if len(packs) == 1:
            packs = measurements.packs_of_another(alone.conditions) or packs
        theirs = {one.conditions.pack: Pace.of(one) for one in packs}
        own = Pace.of(alone)
        gained = {size: own.times(pace, theirs[1]) for size, pace in theirs.items() if size > 1}
        return cls({1: own, **gained}, best(packs).conditions.pack)

    @property
    def alone(self) -> Pace:
        """That of one at a time."""
        return self.by_size[1]

    def of(self, size: int) -> Pace:
        """Return that of the largest pack that was measured and is no larger."""
        return self.by_size[max(known for known in self.by_size if known <= size)]


@dataclass(frozen=True)
class Estimate:
    """How long all trials of a study take: training and evaluation, without what is around them."""

    seconds: float
    """With one trial at a time in a slot."""
    seconds_in_packs: float
    """With as many seeds of an arm at a time as are asked for, else as was measured to be best, of
    the arm or of another of its network; on a CPU that is one, as ``--pack auto`` has it."""
    slots: int
    measured: date
    """When the oldest of the measurements was made."""
    pack: int | None = None
    """Trials at once that were asked for; None for the best number."""
    side_by_side: bool = False
    """Whether several of the slots are on a CPU, whose caches and memory they share."""

    @classmethod
    def of(
        cls,
        study: Study,
        slots: list[Slot],
        measurements: Measurements,
        data_folder: Path,
        pack: int | None = None,
    ) -> "Estimate | None":
        """Return the estimate; None where something was not measured that it needs.

        Slots that share a GPU count as one: they divide what it does. A search's trials count with
        the settings of the study file. A pack is no larger than an arm has seeds, and than a slot's
        share of all trials.
        """
        arms = list(study.arms())
        works = {name: Work.of(study, data_folder, name) for name in study.matrix.dataset}
        shapes = {name: shape_of(name, data_folder) for name in study.matrix.dataset}
        trials = study.number_of_trials()
        places = list({slot.gpu or str(slot.index): slot for slot in slots}.values())[:trials]
        share = ceil(trials / len(slots))
        oldest = date.max
        alone, packed = 0.0, 0.0  # studies per second, all places together
        for slot in places:
            by_one, in_packs = Spent(), Spent()
            for arm in arms:
                trial = trial_of(study, arm.dataset, arm.network, arm.activation)
                conditions = Conditions.of(slot, trial, shapes[arm.dataset])
                one = measurements.under(conditions)
                if one is None:
                    return None
                paces = Paces.known(one, measurements)
                size = pack or (paces.best if slot.gpu else 1)
                by_one += works[arm.dataset].spent(paces, 1)
                in_packs += works[arm.dataset].spent(paces, min(size, share))
            alone += 1 / by_one.seconds
            packed += 1 / in_packs.seconds
            oldest = min(oldest, by_one.measured, in_packs.measured)
        side_by_side = sum(slot.gpu is None for slot in slots) > 1
        return cls(1 / alone, 1 / packed, len(slots), oldest, pack, side_by_side)

    def __str__(self) -> str:
        where = f"on {count(self.slots, 'slot')}"
        if self.seconds_in_packs != self.seconds:
            size = f"up to {self.pack}" if self.pack else "the best size"
            where += f" in packs of {size} ({duration(self.seconds)} without)"
        if self.side_by_side:
            where += ", as if none slowed another"
        return (
            f"about {duration(self.seconds_in_packs)} {where}, as measured here on {self.measured}"
        )


def time_needed(
    study: Study,
    slots: list[Slot],
    home: Home,
    data_folder: Path,
    bench: str,
    pack: int | None = None,
) -> str:
    """Say how long a study takes by what the home knows, or that ``bench`` is the command to know.

    ``pack`` is how many trials of an arm are to be trained at once; None for the best number. A
    file that cannot be read is no reason not to launch, and is told of here.
    """
    try:
        estimate = Estimate.of(study, slots, Measurements.read(home), data_folder, pack)
    except UserError as error:
        return f"how long it takes is not known: {error}: {bench}"
    return str(estimate) if estimate else f"how long it takes is not known: {bench}"
