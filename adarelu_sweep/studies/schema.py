"""The study file's schema."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    field_validator,
    model_validator,
)

from adarelu_sweep.components import Component, unknown
from adarelu_sweep.storing.places import place_at
from adarelu_sweep.studies.search import Search, Seed
from adarelu_sweep.training.settings import (
    ActivationComponent,
    DataSettings,
    NetworkComponent,
    Settings,
    TrainingSettings,
    TrialSettings,
)

# A study's name becomes a folder and an MLflow experiment; a data set's becomes a file name.
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=SAFE_NAME)]


def _listed(given: Any) -> Any:
    """A single value where a list is wanted is a list of one."""
    return given if isinstance(given, list) else [given]


def _seeds(given: Any) -> Any:
    """A number of seeds n means the seeds 0 to n-1."""
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= 1_000_000:
            raise ValueError(f"{given} is no number of seeds: give 1 or more, or a list of seeds")
        return list(range(given))
    return given


class Matrix(Settings):
    """What is combined: every combination of one value from each list is a cell of the study."""

    dataset: Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1)]
    network: Annotated[list[NetworkComponent], BeforeValidator(_listed), Field(min_length=1)]
    activation: Annotated[list[ActivationComponent], BeforeValidator(_listed), Field(min_length=1)]
    seeds: Annotated[list[Seed], BeforeValidator(_seeds), Field(min_length=1)]

    @field_validator("dataset", "network", "activation", "seeds")
    @classmethod
    def _distinct(cls, values: list[Any]) -> list[Any]:
        shown = [value.label if isinstance(value, Component) else str(value) for value in values]
        for label, times in Counter(shown).items():
            if times > 1:
                raise ValueError(f"{label} is listed {times} times")
        return values


@dataclass(frozen=True)
class Arm:
    """Data set x network x activation."""

    dataset: str
    network: Component
    activation: Component

    @property
    def label(self) -> str:
        """Its name, the same as that of its trials."""
        return f"{self.dataset}/{self.network.label}/{self.activation.label}"

    def settings(self, study: "Study", seed: int) -> TrialSettings:
        """Return a trial of this arm as the study file has it."""
        return TrialSettings(
            dataset=self.dataset,
            network=self.network,
            activation=self.activation,
            seed=seed,
            data=study.data,
            training=study.training,
        )


class ReportSettings(Settings):
    """What the study's report compares, and how much of it is made when the study ends."""

    baseline: str | None = None
    """Label of the activation that the others are compared with; ReLU, else the first."""
    threshold: Annotated[float, Field(ge=0, le=100)] | None = None
    """Test accuracy, percent, that counts as converged; a share of the baseline's unless given."""
    figures: bool = True
    """Draw figures: those of the report, and those among each run's artifacts."""
    register_model: bool = True
    """Register the best trial's model in MLflow."""


class ExecutionSettings(Settings):
    """How the study is carried out: nothing here changes a number, so a resume may change most."""

    max_retries: NonNegativeInt = 3
    """How often a trial is taken up again whose worker crashed, was lost, or made no progress."""
    stall_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Seconds without a step done after which a worker is killed and its trial retried."""
    keep: Literal["last", "best", "none"] = "last"
    """The weights that are kept of a finished trial: those of its last epoch, those of its best
    one, or none."""
    checkpoints: str | None = None
    """Where checkpoints, histories and models lie: ``s3://BUCKET/PREFIX``, or the whole path of a
    folder that all workers reach; the home unless given. Cannot be changed by a resume."""

    @field_validator("checkpoints")
    @classmethod
    def _is_a_place(cls, given: str | None) -> str | None:
        return None if given is None else str(place_at(given))


class Study(Settings):
    """A whole study file, resolved: every default filled in, every name known."""

    name: Name
    matrix: Matrix
    data: DataSettings = DataSettings()
    training: TrainingSettings
    search: Search | None = None
    report: ReportSettings = ReportSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @model_validator(mode="before")
    @classmethod
    def _one_seed_is_enough_to_search(cls, given: Any) -> Any:
        if (
            isinstance(given, dict)
            and given.get("search")
            and isinstance(given.get("matrix"), dict)
        ):
            return given | {"matrix": {"seeds": 1} | given["matrix"]}
        return given

    @model_validator(mode="after")
    def _has_its_baseline(self) -> Self:
        labels = [activation.label for activation in self.matrix.activation]
        given = self.report.baseline
        if given is not None and given not in labels:
            raise ValueError(
                f"report.baseline: {unknown('activation of this study', given, labels)}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if self.search is not None:
            self.search.check([arm.settings(self, self.matrix.seeds[0]) for arm in self.arms()])
            if self.data.train_limit == 1:
                raise ValueError("data.train_limit: one image cannot be split: give 2 or more")
            if again := set(self.confirm_seeds()) & set(self.matrix.seeds):
                raise ValueError(
                    f"search.confirm_seeds: {min(again)} is a seed of the search too: what is "
                    "confirmed needs fresh ones"
                )
        return self

    def arms(self) -> Iterator[Arm]:
        """Yield the arms, activations varying fastest."""
        for dataset in self.matrix.dataset:
            for network in self.matrix.network:
                for activation in self.matrix.activation:
                    yield Arm(dataset, network, activation)

    def seeds(self) -> list[int]:
        """Return the seeds of the trials that are reported: a search's are those of its end."""
        return self.confirm_seeds() if self.search else self.matrix.seeds

    def number_of_trials(self) -> int:
        """Return how many trials there are in all, none of a search pruned."""
        each = len(self.seeds()) + (self.search.trials if self.search else 0)
        return each * len(list(self.arms()))

    def confirm_seeds(self) -> list[int]:
        """Return the seeds with which a search's best settings are trained again."""
        assert self.search is not None
        given = self.search.confirm_seeds
        if isinstance(given, list):
            return given
        first = max(self.matrix.seeds) + 1
        return list(range(first, first + given))
