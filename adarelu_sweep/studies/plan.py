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


def cells(study: Study) -> Iterator[Cell]:
    """Yield the cells in the order in which they are trained.

    Seeds vary slowest, so that an interrupted study has compared every arm on the seeds it reached.
    """
    matrix = study.matrix
    for seed in matrix.seeds:
        for dataset in matrix.dataset:
            for network in matrix.network:
                for activation in matrix.activation:
                    settings = TrialSettings(
                        dataset=dataset,
                        network=network,
                        activation=activation,
                        seed=seed,
                        data=study.data,
                        training=study.training,
                    )
                    yield Cell(f"{settings.arm}/{seed}", settings)
