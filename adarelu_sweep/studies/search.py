"""The table ``[search]`` of a study file: tune every arm alike, then confirm with fresh seeds."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from adarelu_sweep.components import Component, Scalar, shorten, unknown
from adarelu_sweep.studies.registry import PRUNERS, SAMPLERS
from adarelu_sweep.training.settings import Settings, TrialSettings, component_of

SamplerComponent = Annotated[Component, component_of(SAMPLERS)]
PrunerComponent = Annotated[Component, component_of(PRUNERS)]

Seed = Annotated[int, Field(ge=0, lt=2**63)]

_SEARCHABLE = ("training", "activation", "network")
_FIXED = {"training.epochs": "all trials of a search train for as many epochs"}
_MOST_CORNERS = 2000


class Dimension(Settings):
    """What is tried for one field: a range of numbers, or a list of choices."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: Annotated[list[Scalar], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("give either choices or low and high, not both")
            if len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError("a choice is listed twice")
        elif self.low is None or self.high is None:
            raise ValueError("give low and high, or choices, as in { low = 1e-4, high = 0.3 }")
        elif self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        elif self.step is not None and self.log:
            raise ValueError("step and log = true do not go together")
        elif self.step is not None and self.step <= 0:
            raise ValueError(f"step = {self.step}: give a number above 0")
        elif self.log and self.low <= 0:
            raise ValueError(f"log = true needs a low above 0, not {self.low}")
        return self

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(map(str, self.choices))
        step = f" in steps of {self.step}" if self.step is not None else ""
        return f"{self.low} to {self.high}{step}{', log' if self.log else ''}"

    @property
    def is_numeric(self) -> bool:
        """Whether it is a range."""
        return self.choices is None

    def like(self, value: Any) -> "Dimension":
        """Return it with numbers of a field's kind: for a float, 0 to 1 is 0.0 to 1.0."""
        if not isinstance(value, float) or self.choices is not None:
            return self
        numbers = {"low": self.low, "high": self.high, "step": self.step}
        floats = {key: float(n) for key, n in numbers.items() if n is not None}
        return self.model_copy(update=floats)

    def extremes(self) -> list[Scalar]:
        """Return the values that have to be valid for all of them to be."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return list(dict.fromkeys((self.low, self.high)))


class Search(Settings):
    """How every arm is tuned, and with how many fresh seeds its best setting is confirmed."""

    trials: PositiveInt
    """Finished trials of every arm: complete, diverged or pruned."""
    validation_fraction: Annotated[float, Field(lt=1)] | None = None
    """The share of the training images that trials of the search are measured on."""
    confirm_seeds: (
        Annotated[int, Field(ge=1, le=1_000_000)] | Annotated[list[Seed], Field(min_length=1)]
    ) = 10
    """How many seeds, the next after those of the search; or which."""
    sampler: SamplerComponent = Field(default_factory=lambda: SAMPLERS.resolve("tpe"))
    pruner: PrunerComponent = Field(default_factory=lambda: PRUNERS.resolve("none"))
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The sampler's: the n-th trials of all arms draw from equal streams."""
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    """What is tried for which field of a trial, by its dotted key."""

    @field_validator("space", mode="before")
    @classmethod
    def _full_keys(cls, given: Any) -> Any:
        """``optimizer.lr`` is short for ``training.optimizer.lr``."""
        if not isinstance(given, dict):
            return given
        return {
            key if key.split(".")[0] in _SEARCHABLE else f"training.{key}": dimension
            for key, dimension in given.items()
        }

    @field_validator("confirm_seeds")
    @classmethod
    def _distinct(cls, seeds: int | list[int]) -> int | list[int]:
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @model_validator(mode="after")
    def _measured_on_a_split_of_its_own(self) -> Self:
        if not self.validation_fraction or self.validation_fraction <= 0:
            raise ValueError(
                "a search without a validation split would choose its settings on the test set: "
                "give validation_fraction, such as 0.1"
            )
        return self

    def space_of(self, base: TrialSettings) -> dict[str, Dimension]:
        """Return what is searched in the arm of ``base``: the keys that its settings have."""
        tables = _tables(base)
        return {
            key: dimension.like(_at(tables, key))
            for key, dimension in self.space.items()
            if _has(tables, key)
        }

    def check(self, bases: Sequence[TrialSettings]) -> None:
        """Raise ValueError, naming the key, for what the arms cannot be trained with."""
        epochs = bases[0].training.epochs
        for name in ("min_resource", "n_warmup_steps"):
            if int(self.pruner.arguments.get(name, 0)) >= max(epochs, 2):
                raise ValueError(
                    f"search.pruner: with {name} = {self.pruner.arguments[name]} it would end no "
                    f"trial of {epochs} epochs: give less, or none as the pruner"
                )
        for key in self.space:
            if reason := _FIXED.get(key):
                raise ValueError(f"search.space: {key} cannot be searched: {reason}")
            if not any(_has(_tables(base), key) for base in bases):
                known = sorted({known for base in bases for known in _keys(_tables(base))})
                raise ValueError(f"search.space: {unknown('field of a trial', key, known)}")
        for base in bases:
            self._check_arm(base)

    def _check_arm(self, base: TrialSettings) -> None:
        space = self.space_of(base)
        if not space:
            raise ValueError(
                f"search.space: nothing of it is a field of {base.arm}: give one that all arms "
                "have, such as training.optimizer.lr, so that every arm is tuned"
            )
        if self.sampler.name == "cmaes" and sum(d.is_numeric for d in space.values()) < 2:
            raise ValueError(
                f"search.sampler: cmaes needs two numbers to search in {base.arm}: give tpe"
            )
        corners = product(*(dimension.extremes() for dimension in space.values()))
        for corner in islice(corners, _MOST_CORNERS):
            params = dict(zip(space, corner, strict=True))
            try:
                with_params(base, params)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                shown = ", ".join(f"{key} = {shorten(value)}" for key, value in params.items())
                raise ValueError(f"search.space: {base.arm} with {shown}: {reason}") from None


def with_params(base: TrialSettings, params: Mapping[str, Scalar]) -> TrialSettings:
    """Return the settings with the fields of a search set, and the name of the arm kept.

    Raises pydantic's ValidationError for values that a trial cannot have.
    """
    tables = _tables(base) | {"tuned_arm": base.arm}
    for key in sorted(params, key=lambda key: key.count(".")):  # a component, then its arguments
        *above, last = key.split(".")
        node = tables
        for part in above:
            node = node[part]
        is_component = isinstance(node.get(last), dict)
        node[last] = {"name": params[key]} if is_component else params[key]
    return TrialSettings.model_validate(tables)


def _tables(value: Any) -> Any:
    """Return settings as a study file would give them: components as tables."""
    if isinstance(value, Component):
        return value.flattened()
    if isinstance(value, BaseModel):
        return {name: _tables(getattr(value, name)) for name in type(value).model_fields}
    return value


def _keys(tables: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of what a search may set."""
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if not prefix and name not in _SEARCHABLE:
            continue
        if prefix and name != "name" and key not in _FIXED:
            yield key
        if isinstance(value, dict):
            yield from _keys(value, f"{key}.")


def _has(tables: dict[str, Any], key: str) -> bool:
    return key in set(_keys(tables))


def _at(tables: dict[str, Any], key: str) -> Any:
    node: Any = tables
    for part in key.split("."):
        node = node[part]
    return node
