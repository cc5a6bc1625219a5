"""Tuning one arm: what is tried next, what is ended early, and which setting is best.

Samplers are made anew for every trial, seeded by the search's seed and the trial's number: all that
they know stands in the arm's Optuna study, so that a resumed search goes on instead of repeating
its first points, and the n-th trials of all arms draw from equal streams.
"""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, Trial, TrialState

from adarelu_sweep.components import Component, Scalar
from adarelu_sweep.recording.books import ArmBook
from adarelu_sweep.recording.trials import LedgerTrial
from adarelu_sweep.studies.plan import Cell
from adarelu_sweep.studies.registry import PRUNERS, SAMPLERS
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.studies.search import Dimension, with_params
from adarelu_sweep.training.settings import TrialSettings


class ArmSearch:
    """The search of one arm, over its book."""

    def __init__(self, study: Study, book: ArmBook) -> None:
        assert study.search is not None
        self.book = book
        self._study = study
        self._search = study.search
        self._space = study.search.space_of(book.arm.settings(study, study.matrix.seeds[0]))
        self._pruner = _pruner(study.search.pruner, study.training.epochs)

    @property
    def budget(self) -> int:
        """How many trials have to finish."""
        return self._search.trials

    @property
    def prunes(self) -> bool:
        """Whether trials may be ended early."""
        return self._search.pruner.name != "none"

    def ask(self, threads: int) -> tuple[Cell, LedgerTrial]:
        """Begin the next trial, RUNNING, with what the sampler proposes."""
        trial = self.book.ask(self._sampler, self._pruner, self._suggest, threads)
        return self.cell(trial), trial

    def cell(self, trial: LedgerTrial) -> Cell:
        """Return what a trial of this search trains."""
        return self._cell(trial.number, trial.params)

    def should_prune(self, trial: LedgerTrial) -> bool:
        """Return whether a trial is to be ended after the epochs that it has reported."""
        return self.prunes and self.book.should_prune(trial, self._pruner)

    def best(self, trials: list[LedgerTrial]) -> LedgerTrial | None:
        """Return the complete trial of the highest validation accuracy; of equals the first.

        A pruned trial was not trained to its end and is not compared; None if there is no other.
        """
        complete = [t for t in trials if t.state is TrialState.COMPLETE and t.result]
        return max(complete, key=_accuracy, default=None)

    def confirmed(self, best: LedgerTrial, seed: int) -> Cell:
        """Return the training of the best setting with a fresh seed, on all training images.

        More trials may find a better setting than the one that was confirmed first: then it is
        another cell, and the trials of the first are left as they are.
        """
        base = self.book.arm.settings(self._study, seed)
        cell = Cell.of(with_params(base, best.params))
        if self.book.first_confirmed in (None, best.number):
            return cell
        return Cell(f"{cell.key}/search {best.number}", cell.settings)

    def _cell(self, number: int, params: dict[str, Scalar]) -> Cell:
        seeds = self._study.matrix.seeds
        base = self.book.arm.settings(self._study, seeds[number % len(seeds)])
        settings: TrialSettings = with_params(base, params).model_copy(
            update={"validation_fraction": self._search.validation_fraction}
        )
        return Cell(f"{self.book.arm.label}/search {number}", settings)

    def _sampler(self, number: int) -> BaseSampler:
        return _sampler(self._search.sampler, self._search.seed, number, self._distributions())

    def _suggest(self, trial: Trial) -> Cell:
        params = {key: _suggest(trial, key, dimension) for key, dimension in self._space.items()}
        return self._cell(trial.number, params)

    def _distributions(self) -> dict[str, BaseDistribution]:
        probe = optuna.create_study()
        trial = probe.ask()
        for key, dimension in self._space.items():
            _suggest(trial, key, dimension)
        return trial.distributions


def _accuracy(trial: LedgerTrial) -> float:
    assert trial.result is not None
    return trial.result.accuracy


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Scalar:
    if dimension.choices is not None:
        return cast(Scalar, trial.suggest_categorical(key, dimension.choices))
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
        return trial.suggest_int(key, low, high, step=step or 1, log=dimension.log)
    return trial.suggest_float(key, low, high, step=step, log=dimension.log)


class _KnownSpaceQMC(QMCSampler):
    """A sampler of the whole space from the first trial on, rather than from the second.

    The n-th trial gets the n-th point, where Optuna counts the points that were ever asked for: a
    kill between its count and the trial would leave a point out.
    """

    def __init__(self, space: dict[str, BaseDistribution], number: int, **arguments: Any) -> None:
        with warnings.catch_warnings(category=ExperimentalWarning, action="ignore"):
            super().__init__(**arguments)
        self._space = {k: d for k, d in space.items() if not d.single() and _is_numeric(d)}
        self._number = number

    def infer_relative_search_space(
        self, study: OptunaStudy, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: OptunaStudy, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


def _is_numeric(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, optuna.distributions.CategoricalDistribution)


def _sampler(
    component: Component, seed: int, number: int, space: dict[str, BaseDistribution]
) -> BaseSampler:
    make: Callable[..., BaseSampler] = SAMPLERS.load(component)
    own = _stream_seed(seed, number)
    if make is QMCSampler:
        # The sequence keeps the search's seed; what is not a number has a stream of its own.
        return _KnownSpaceQMC(
            space,
            number,
            scramble=True,
            seed=seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=own),
            warn_independent_sampling=False,
        )
    quiet = {"warn_independent_sampling": False} if make in (CmaEsSampler, GPSampler) else {}
    return make(seed=own, **component.arguments, **quiet)


def _pruner(component: Component, epochs: int) -> BasePruner:
    make: Callable[..., BasePruner] = PRUNERS.load(component)
    known = {"max_resource": epochs} if make is HyperbandPruner else {}
    return make(**component.arguments, **known)


def _stream_seed(seed: int, number: int) -> int:
    """Return a 32-bit seed, unrelated to those of the neighbouring trials."""
    hashed = hashlib.sha256(f"{seed}/sampler/{number}".encode()).digest()
    return int.from_bytes(hashed[:4], "little")
