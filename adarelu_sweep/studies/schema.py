"""The study file's schema."""

from collections import Counter
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from adarelu_sweep.components import Component
from adarelu_sweep.training.settings import (
    ActivationComponent,
    DataSettings,
    NetworkComponent,
    Settings,
    TrainingSettings,
)

# A study's name becomes a folder and an MLflow experiment; a data set's becomes a file name.
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=SAFE_NAME)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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


class Study(Settings):
    """A whole study file, resolved: every default filled in, every name known."""

    name: Name
    matrix: Matrix
    data: DataSettings = DataSettings()
    training: TrainingSettings
