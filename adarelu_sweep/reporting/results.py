"""The results of a study, from its ledger."""

from dataclasses import dataclass
from statistics import fmean, stdev

from adarelu_sweep.studies.plan import cells
from adarelu_sweep.supervising.ledger import StudyLedger, TrialResult


@dataclass(frozen=True)
class SeedResult:
    """One finished trial of an arm."""

    seed: int
    result: TrialResult


@dataclass(frozen=True)
class Arm:
    """Data set x network x activation, with the finished trials in the order of their seeds."""

    dataset: str
    network: str
    activation: str
    planned: int
    trials: list[SeedResult]

    @property
    def n(self) -> int:
        """The number of finished trials; diverged ones count."""
        return len(self.trials)

    @property
    def diverged(self) -> int:
        """The number of diverged trials."""
        return sum(trial.result.diverged for trial in self.trials)

    @property
    def mean(self) -> float | None:
        """Mean test accuracy at the last epoch, percent; None without trials."""
        return fmean(self._accuracies()) if self.trials else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1) of the test accuracy, percent; None below 2 trials."""
        return stdev(self._accuracies()) if self.n > 1 else None

    def _accuracies(self) -> list[float]:
        return [trial.result.accuracy for trial in self.trials]


@dataclass(frozen=True)
class Results:
    """What is known of a study's arms so far."""

    study: str
    subset: str | None
    """Says so, where results come from a subset of the data."""
    arms: list[Arm]

    @property
    def is_partial(self) -> bool:
        """Return whether some planned trials have no result."""
        return any(arm.n < arm.planned for arm in self.arms)


def collect(ledger: StudyLedger) -> Results:
    """Collect the results of the finished trials, arm by arm in the order of the study file."""
    study = ledger.record.study
    finished = {trial.cell: trial.result for trial in ledger.trials() if trial.result}
    arms: dict[tuple[str, str, str], list[SeedResult]] = {}
    for cell in cells(study):
        settings = cell.settings
        key = (settings.dataset, settings.network.label, settings.activation.label)
        trials = arms.setdefault(key, [])
        if result := finished.get(cell.key):
            trials.append(SeedResult(settings.seed, result))
    planned = len(study.matrix.seeds)
    return Results(
        study=study.name,
        subset=study.data.subset_note(),
        arms=[
            Arm(*key, planned, sorted(trials, key=lambda t: t.seed)) for key, trials in arms.items()
        ],
    )
