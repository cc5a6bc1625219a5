"""The Optuna book: which trials a study has, and the state of each.

A study is an Optuna study of the same name whose plan is a user attribute, set in one transaction:
without it there is no study. A trial is made when its cell is first dispatched, in one transaction
that carries the cell's key, and never again: what waits is the plan minus the trials. A search has,
beside that study, one for every arm (``ArmBook``), named "STUDY/ARM", with trials of its own.

The storage interface is used rather than ``ask`` and ``tell``, because those cannot hand a trial
back (RUNNING to WAITING) and would scan all trials at every dispatch.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from adarelu_sweep.components import Scalar, unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.studies.plan import Cell
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Arm

_PLAN = "adarelu_sweep.plan"
_CELL = "cell"
_BUSY_TIMEOUT_SECONDS = 30

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial reports: its last epoch, never its best."""

    accuracy: float
    """Percent, on the split that the trial is measured on."""
    loss: float | None
    """Mean cross entropy in nats, on the same; None where it is not finite."""
    epochs: int
    diverged: bool


@dataclass(frozen=True)
class LedgerTrial:
    """One trial as the ledger has it."""

    number: int
    cell: str
    state: TrialState
    attempts: int
    threads: int
    losses: int = 0
    """How many of the attempts ended with the loss of the worker."""
    tags: dict[str, str] = field(default_factory=dict)
    """Where and with what the last attempt runs, for the trial's run in MLflow."""
    result: TrialResult | None = None
    error: str | None = None
    params: dict[str, Scalar] = field(default_factory=dict)
    """What a search chose for it, by key."""
    _trial_id: int = field(default=-1, repr=False)


class Ledger:
    """All studies of one home."""

    def __init__(self, path: Path) -> None:
        """Open the SQLite file, making it if need be; raise UserError if it cannot be used."""
        try:
            if not path.parent.is_dir():
                raise RuntimeError("there is no such folder")
            # Optuna makes its tables without a thought of others who do so at the same time.
            with FileLock(path.with_name(f"{path.name}.lock")):
                self._storage = RDBStorage(
                    f"sqlite:///{path}",
                    engine_kwargs={"connect_args": {"timeout": _BUSY_TIMEOUT_SECONDS}},
                )
            event.listen(self._storage.engine, "connect", _use_wal)
            self._storage.engine.dispose()  # the connections made before the listener was there
            with self._storage.engine.connect() as connection:
                found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
            if found != "ok":
                raise RuntimeError(found)
        except (
            *(OSError, RuntimeError),
            *(SQLAlchemyError, optuna.exceptions.OptunaError),
        ) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a usable Optuna database ({reason})") from None
        with suppress(OSError):  # somebody else's file, opened to look at it
            path.chmod(0o600)

    @classmethod
    def existing(cls, path: Path) -> "Ledger":
        """Open a home's ledger without making a home where there is none."""
        if not path.exists():
            raise UserError(f"no studies in {path.parent}: launch one, or give another --home")
        return cls(path)

    def names(self) -> list[str]:
        """Return the names of the studies whose plan is recorded, oldest first."""
        studies = self._storage.get_all_studies()
        studies.sort(key=lambda study: study._study_id)
        return [study.study_name for study in studies if _PLAN in study.user_attrs]

    def refuse_existing(self, name: str) -> None:
        """Raise UserError if a study of that name exists."""
        if name in self.names():
            raise UserError(
                f"study {name!r} exists: go on with 'adarelu-sweep resume {name}', "
                "or launch under another --name"
            )

    def create(self, record: StudyRecord) -> "StudyLedger":
        """Record a study's plan; raise UserError if a study of that name exists."""
        name = record.study.name
        self.refuse_existing(name)
        study_id = self._make(name)
        if record.study.search:
            for arm in record.study.arms():
                self._make(f"{name}/{arm.label}")
        self._storage.set_study_user_attr(study_id, _PLAN, record.model_dump_json())
        return StudyLedger(self._storage, name, record)

    def _make(self, name: str) -> int:
        """Make an Optuna study, or take one that a launch left which was cut off."""
        try:
            return self._storage.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:
            study_id = self._storage.get_study_id_from_name(name)
            if self._storage.get_all_trials(study_id, False):
                raise UserError(
                    f"the Optuna database holds a study {name!r} that is not adarelu-sweep's: "
                    "launch under another --name"
                ) from None
            return study_id

    def open(self, name: str) -> "StudyLedger":
        """Return a study's ledger; raise UserError if there is no such study."""
        names = self.names()
        if name not in names:
            hint = unknown("study", name, names) if names else f"unknown study {name!r}"
            raise UserError(f"{hint}; see 'adarelu-sweep list'")
        study_id = self._storage.get_study_id_from_name(name)
        plan = self._storage.get_study_user_attrs(study_id)[_PLAN]
        return StudyLedger(self._storage, name, StudyRecord.model_validate_json(plan))

    def close(self) -> None:
        """Close every connection."""
        self._storage.remove_session()
        self._storage.engine.dispose()


class Book:
    """The trials of one Optuna study. Only the supervisor of the study it belongs to writes."""

    def __init__(self, storage: RDBStorage, name: str) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        self.name = name

    def trials(self) -> list[LedgerTrial]:
        """Return every trial that was dispatched, in the order of their numbers."""
        trials = self._storage.get_all_trials(self._study_id, False)
        return [_ledger_trial(trial) for trial in trials if _CELL in trial.user_attrs]

    def resume(self, trial: LedgerTrial) -> LedgerTrial:
        """Take a waiting trial up again, as its next attempt."""
        self._set(trial, "attempts", trial.attempts + 1)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        return replace(trial, state=TrialState.RUNNING, attempts=trial.attempts + 1)

    def report(self, trial: LedgerTrial, epoch: int, value: float) -> None:
        """Record an epoch's objective (test accuracy, percent); again for an epoch is harmless."""
        self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)

    def describe(self, trial: LedgerTrial, tags: dict[str, str]) -> LedgerTrial:
        """Record where and with what a trial's attempt runs."""
        self._set(trial, "tags", tags)
        return replace(trial, tags=tags)

    def lose(self, trial: LedgerTrial) -> LedgerTrial:
        """Count the loss of a trial's worker."""
        self._set(trial, "losses", trial.losses + 1)
        return replace(trial, losses=trial.losses + 1)

    def hand_back(self, trial: LedgerTrial) -> LedgerTrial:
        """Let an unfinished trial wait, to be taken up from its checkpoint."""
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        return replace(trial, state=TrialState.WAITING)

    def complete(self, trial: LedgerTrial, result: TrialResult) -> LedgerTrial:
        """Record a trial's result. A diverged one is complete, too: a result is a result."""
        self._set(trial, "result", vars(result))
        self._storage.set_trial_state_values(
            trial._trial_id, TrialState.COMPLETE, [result.accuracy]
        )
        return replace(trial, state=TrialState.COMPLETE, result=result)

    def fail(self, trial: LedgerTrial, error: str) -> LedgerTrial:
        """Record that a trial failed for good."""
        self._set(trial, "error", error)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return replace(trial, state=TrialState.FAIL, error=error)

    def prune(self, trial: LedgerTrial, result: TrialResult) -> LedgerTrial:
        """Record that a trial was ended early, with the result of its last epoch."""
        self._set(trial, "result", vars(result))
        self._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED, [result.accuracy])
        return replace(trial, state=TrialState.PRUNED, result=result)

    def repair(self) -> None:
        """Let every trial wait that a dead supervisor left RUNNING."""
        for trial in self.trials():
            if trial.state is TrialState.RUNNING:
                self.hand_back(trial)

    def _set(self, trial: LedgerTrial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, key, value)


class StudyLedger(Book):
    """The book of a whole study: its plan, and the trials of its cells."""

    def __init__(self, storage: RDBStorage, name: str, record: StudyRecord) -> None:
        super().__init__(storage, name)
        self.record = record

    def repair(self) -> None:
        """Let every trial wait that a dead supervisor left RUNNING, those of a search too."""
        super().repair()
        for book in self.searches():
            book.repair()

    def begin(self, cell: Cell, threads: int) -> LedgerTrial:
        """Make the trial of a cell that never had one, RUNNING, in its first attempt."""
        template = create_trial(state=TrialState.RUNNING, user_attrs=_attributes(cell, threads))
        trial_id = self._storage.create_new_trial(self._study_id, template)
        return _ledger_trial(self._storage.get_trial(trial_id))

    def searches(self) -> "list[ArmBook]":
        """Return the book of every arm's search, in the order of the arms; none without one."""
        study = self.record.study
        if study.search is None:
            return []
        return [
            ArmBook(self._storage, f"{self.name}/{arm.label}", arm, index)
            for index, arm in enumerate(study.arms())
        ]


class ArmBook(Book):
    """The trials of one arm's search.

    Its Optuna study is what samplers and pruners learn from (see ``supervising.search``).
    """

    def __init__(self, storage: RDBStorage, name: str, arm: Arm, index: int) -> None:
        super().__init__(storage, name)
        self.arm = arm
        self.index = index

    def ask(
        self,
        sampler: Callable[[int], BaseSampler],
        pruner: BasePruner,
        suggest: Callable[[optuna.Trial], Cell],
        threads: int,
    ) -> LedgerTrial:
        """Make a trial, RUNNING, or finish one whose making was cut off by a kill.

        ``sampler`` returns a sampler for a trial's number; ``suggest`` sets the trial's parameters
        and returns its cell, whose key comes last and makes the trial count. ``Study.ask`` is not
        used: it would take up a trial that was handed back, which has its settings already.
        """
        trials = self._storage.get_all_trials(self._study_id, False)
        begun = next((trial for trial in trials if _CELL not in trial.user_attrs), None)
        trial_id = begun._trial_id if begun else self._storage.create_new_trial(self._study_id)
        number = self._storage.get_trial_number_from_id(trial_id)
        study = self._study(sampler(number), pruner)  # hyperband samples by bracket
        cell = suggest(optuna.Trial(study, trial_id))
        attributes = _attributes(cell, threads)
        for key in sorted(attributes, key=lambda key: key == _CELL):
            self._storage.set_trial_user_attr(trial_id, key, attributes[key])
        return _ledger_trial(self._storage.get_trial(trial_id))

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


@dataclass(frozen=True)
class Counts:
    """How many trials a study has in each state; what has no trial yet waits."""

    total: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @classmethod
    def of(cls, total: int, trials: Iterable[LedgerTrial]) -> "Counts":
        """Count the trials of a study that has ``total`` cells."""
        states = [trial.state for trial in trials]
        complete = states.count(TrialState.COMPLETE)
        pruned = states.count(TrialState.PRUNED)
        failed = states.count(TrialState.FAIL)
        running = states.count(TrialState.RUNNING)
        waiting = total - complete - pruned - failed - running
        return cls(total, complete, pruned, failed, running, waiting)

    def without_running(self) -> "Counts":
        """Return the counts of a study that nobody supervises: what seems to run there waits."""
        return replace(self, running=0, waiting=self.waiting + self.running)


def _attributes(cell: Cell, threads: int) -> dict[str, Any]:
    """Return what a trial carries from its making on; the cell's key makes it one of the study."""
    return {
        _CELL: cell.key,
        "dataset": cell.settings.dataset,
        "network": cell.settings.network.label,
        "activation": cell.settings.activation.label,
        "seed": cell.settings.seed,
        "threads": threads,
        "attempts": 1,
    }


def _ledger_trial(trial: FrozenTrial) -> LedgerTrial:
    attributes = trial.user_attrs
    result = attributes.get("result")
    return LedgerTrial(
        number=trial.number,
        cell=attributes[_CELL],
        state=trial.state,
        attempts=attributes["attempts"],
        threads=attributes["threads"],
        losses=attributes.get("losses", 0),
        tags=attributes.get("tags", {}),
        result=TrialResult(**result) if result else None,
        error=attributes.get("error"),
        params=trial.params,
        _trial_id=trial._trial_id,
    )


def _use_wal(connection: Any, _record: Any) -> None:
    """Readers never wait for the writer, nor the writer for them."""
    connection.execute("PRAGMA journal_mode = WAL")
