"""The trials of one Optuna study, and what may happen to them.

Neither ``ask`` and ``tell``, which would scan all trials at every dispatch, nor the storage's own
changes of state, of which none leads back from RUNNING or FAIL to WAITING and keeps what belongs
together in one transaction.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text

from adarelu_sweep.recording.changes import change_trial
from adarelu_sweep.recording.opening import damage_explained
from adarelu_sweep.recording.patience import Patience
from adarelu_sweep.recording.rows import read_trials
from adarelu_sweep.recording.trials import (
    CELL,
    LedgerTrial,
    TrialResult,
    attributes,
    ledger_trial,
)
from adarelu_sweep.studies.plan import Cell
from adarelu_sweep.studies.schema import Arm

INDEX = "adarelu_sweep.index"
"""The attribute of an arm's Optuna study that tells it from the other arms."""
_CONFIRMED = "adarelu_sweep.confirmed"

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B", bound="Book")


def _patient(write: Callable[Concatenate[B, P], T]) -> Callable[Concatenate[B, P], T]:
    """Repeat a write that the disk has no room for. All of them may be repeated at will."""

    def repeated(book: B, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return book.patience.do(lambda: write(book, *args, **kwargs))

    return update_wrapper(repeated, write)


class Book:
    """The trials of one Optuna study. Only the supervisor of the study it belongs to writes."""

    def __init__(self, storage: RDBStorage, name: str, patience: Patience) -> None:
        self.patience = patience
        self._storage = storage
        with damage_explained():
            self._study_id = storage.get_study_id_from_name(name)
        self.name = name

    @_patient
    def trials(self) -> list[LedgerTrial]:
        """Return every trial that was dispatched, in the order of their numbers."""
        return read_trials(self._storage.engine, self._study_id)

    @_patient
    def resume(self, trial: LedgerTrial) -> LedgerTrial:
        """Take a waiting trial up again, as its next attempt."""
        attempts = trial.attempts + 1
        self._change(trial, TrialState.RUNNING, attributes={"attempts": attempts})
        return replace(trial, state=TrialState.RUNNING, attempts=attempts)

    @_patient
    def report(self, trial: LedgerTrial, epoch: int, value: float) -> None:
        """Record an epoch's accuracy, percent; again for an epoch is harmless."""
        self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)

    @_patient
    def describe(self, trial: LedgerTrial, tags: dict[str, str]) -> LedgerTrial:
        """Record where and with what a trial's attempt runs."""
        self._change(trial, attributes={"tags": tags})
        return replace(trial, tags=tags)

    @_patient
    def lose(self, trial: LedgerTrial) -> LedgerTrial:
        """Count the loss of a trial's worker."""
        self._change(trial, attributes={"losses": trial.losses + 1})
        return replace(trial, losses=trial.losses + 1)

    @_patient
    def hand_back(self, trial: LedgerTrial) -> LedgerTrial:
        """Let an unfinished trial wait, to be taken up from its checkpoint."""
        self._change(trial, TrialState.WAITING)
        return replace(trial, state=TrialState.WAITING)

    def complete(self, trial: LedgerTrial, result: TrialResult) -> LedgerTrial:
        """Record a trial's result. A diverged one is complete, too: a result is a result."""
        return self._finish(trial, TrialState.COMPLETE, result)

    def prune(self, trial: LedgerTrial, result: TrialResult) -> LedgerTrial:
        """Record that a trial was ended early, with the result of its last epoch."""
        return self._finish(trial, TrialState.PRUNED, result)

    @_patient
    def _finish(self, trial: LedgerTrial, state: TrialState, result: TrialResult) -> LedgerTrial:
        self._change(trial, state, result.accuracy, {"result": vars(result)})
        return replace(trial, state=state, result=result)

    @_patient
    def fail(self, trial: LedgerTrial, error: str) -> LedgerTrial:
        """Record that a trial failed for good."""
        self._change(trial, TrialState.FAIL, attributes={"error": error})
        return replace(trial, state=TrialState.FAIL, error=error)

    @_patient
    def retry(self, trial: LedgerTrial) -> LedgerTrial:
        """Let a failed trial wait again, with all its retries. Optuna has no way back from FAIL."""
        engine = self._storage.engine
        change_trial(engine, trial._trial_id, TrialState.WAITING, forgotten=["losses"], failed=True)
        return replace(trial, state=TrialState.WAITING, losses=0)

    def repair(self) -> None:
        """Let every trial wait that a dead supervisor left RUNNING."""
        for trial in self.trials():
            if trial.state is TrialState.RUNNING:
                self.hand_back(trial)

    def _trial(self, trial_id: int) -> LedgerTrial:
        trial = self._storage.get_trial(trial_id)
        return ledger_trial(trial_id, trial.number, trial.state, trial.user_attrs, trial.params)

    def _change(
        self,
        trial: LedgerTrial,
        state: TrialState | None = None,
        value: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        change_trial(self._storage.engine, trial._trial_id, state, value, attributes)


class ArmBook(Book):
    """The trials of one arm's search.

    Its Optuna study is what samplers and pruners learn from (see ``supervising.search``).
    """

    def __init__(
        self, storage: RDBStorage, name: str, patience: Patience, arm: Arm, position: int
    ) -> None:
        super().__init__(storage, name, patience)
        self.arm = arm
        with damage_explained():
            attributes = storage.get_study_user_attrs(self._study_id)
        self.index: int = attributes.get(INDEX, position)
        """What its folder and the runs of its trials go by, whichever arms are added later."""
        self.first_confirmed: int | None = attributes.get(_CONFIRMED)
        """The trial whose setting was confirmed first; None before that, and in older homes."""

    def keep_index(self) -> None:
        """Record the index; the home may have been made before indices were recorded."""
        self._storage.set_study_user_attr(self._study_id, INDEX, self.index)

    @_patient
    def keep_confirmed(self, number: int) -> None:
        """Record which trial's setting is confirmed, unless another one was before."""
        if self.first_confirmed is None:
            self._storage.set_study_user_attr(self._study_id, _CONFIRMED, number)
            self.first_confirmed = number

    def ask(
        self,
        sampler: Callable[[int], BaseSampler],
        pruner: BasePruner,
        suggest: Callable[[optuna.Trial], Cell],
        threads: int,
    ) -> LedgerTrial:
        """Make a trial, RUNNING, or finish one whose making was cut off by a kill.

        ``sampler`` returns a sampler for a trial's number; ``suggest`` sets the trial's parameters
        and returns its cell, whose key makes the trial count. ``Study.ask`` is not used: it would
        take up a trial that was handed back, which has its settings already.
        """
        asked: list[int] = []

        def make() -> LedgerTrial:
            # A server may have carried out the last change and be gone before it said so.
            if asked and CELL in self._storage.get_trial_user_attrs(asked[-1]):
                return self._trial(asked[-1])
            trial_id = self._new_trial()
            asked.append(trial_id)
            number = self._storage.get_trial_number_from_id(trial_id)
            study = self._study(sampler(number), pruner)  # hyperband samples by bracket
            cell = suggest(optuna.Trial(study, trial_id))
            change_trial(self._storage.engine, trial_id, attributes=attributes(cell, threads))
            return self._trial(trial_id)

        return self.patience.do(make)

    def _new_trial(self) -> int:
        """Return a trial without a cell: one whose making was cut off, else a new one."""
        trials = self._storage.get_all_trials(self._study_id, False)
        for trial in trials:
            if CELL not in trial.user_attrs:
                self._make_anew(trial._trial_id)
                return trial._trial_id
        return self._storage.create_new_trial(self._study_id)

    def _make_anew(self, trial_id: int) -> None:
        """Forget what a trial was given: from the first parameter on, the same is drawn again."""
        with self._storage.engine.begin() as connection:
            for table in ("trial_params", "trial_user_attributes", "trial_system_attributes"):
                forget = text(f"DELETE FROM {table} WHERE trial_id = :id")
                connection.execute(forget, {"id": trial_id})

    @_patient
    def should_prune(self, trial: LedgerTrial, pruner: BasePruner) -> bool:
        """Ask a pruner about a trial's reports so far."""
        study = self._study(RandomSampler(0), pruner)
        return pruner.prune(study, self._storage.get_trial(trial._trial_id))

    def _study(self, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
        study = optuna.load_study(
            study_name=self.name, storage=self._storage, sampler=sampler, pruner=pruner
        )
        study.get_trials(deepcopy=False)  # its cache knows only the trials that it has read
        return study
