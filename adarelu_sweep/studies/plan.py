"""The cells of a study: which trials it consists of, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass

from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.settings import TrialSettings


@dataclass(frozen=True)
class Cell:
    """One trial that the study wants, identified by a key that is unique within it."""

    key: str
    settings: TrialSettings

    @classmethod
    def of(cls, settings: TrialSettings) -> "Cell":
        """Return the cell of a trial that is told from the others by its arm and seed."""
        return cls(f"{settings.arm}/{settings.seed}", settings)


def cells(study: Study) -> Iterator[Cell]:
    """Yield the cells of a study without a search, in the order in which they are trained.

    Seeds vary slowest, so that an interrupted study has compared every arm on the seeds it reached.
    """
    for seed in study.matrix.seeds:
        for arm in study.arms():
            yield Cell.of(arm.settings(study, seed))
