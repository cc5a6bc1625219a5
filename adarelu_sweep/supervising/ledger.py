"""The Optuna book: which trials a study has, and the state of each.

A study is an Optuna study of the same name whose plan is a user attribute, set in one transaction:
without it there is no study. A trial is made when its cell is first dispatched, in one transaction
that carries the cell's key, and never again: what waits is the plan minus the trials.

The storage interface is used rather than ``ask`` and ``tell``, because those cannot hand a trial
back (RUNNING to WAITING) and would scan all trials at every dispatch.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from adarelu_sweep.components import unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.studies.plan import Cell
from adarelu_sweep.studies.record import StudyRecord

_PLAN = "adarelu_sweep.plan"
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
        try:
            study_id = self._storage.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:  # left without a plan by a launch that was cut off
            study_id = self._storage.get_study_id_from_name(name)
            if self._storage.get_all_trials(study_id, False):
                raise UserError(
                    f"the Optuna database holds a study {name!r} that is not adarelu-sweep's: "
                    "launch under another --name"
                ) from None
        self._storage.set_study_user_attr(study_id, _PLAN, record.model_dump_json())
        return StudyLedger(self._storage, study_id, record)

    def open(self, name: str) -> "StudyLedger":
        """Return a study's ledger; raise UserError if there is no such study."""
        names = self.names()
        if name not in names:
            hint = unknown("study", name, names) if names else f"unknown study {name!r}"
            raise UserError(f"{hint}; see 'adarelu-sweep list'")
        study_id = self._storage.get_study_id_from_name(name)
        plan = self._storage.get_study_user_attrs(study_id)[_PLAN]
        return StudyLedger(self._storage, study_id, StudyRecord.model_validate_json(plan))

    def close(self) -> None:
        """Close every connection."""
        self._storage.remove_session()
        self._storage.engine.dispose()


class StudyLedger:
    """The trials of one study. Only the study's supervisor writes."""

    def __init__(self, storage: RDBStorage, study_id: int, record: StudyRecord) -> None:
        self._storage = storage
        self._study_id = study_id
        self.record = record

    def trials(self) -> list[LedgerTrial]:
        """Return every trial, in the order of their numbers."""
        return [_ledger_trial(t) for t in self._storage.get_all_trials(self._study_id, False)]

    def begin(self, cell: Cell, threads: int) -> LedgerTrial:
        """Make the trial of a cell that never had one, RUNNING, in its first attempt."""
        template = create_trial(
            state=TrialState.RUNNING,
            user_attrs={
                "cell": cell.key,
                "dataset": cell.settings.dataset,
                "network": cell.settings.network.label,
                "activation": cell.settings.activation.label,
                "seed": cell.settings.seed,
                "threads": threads,
                "attempts": 1,
            },
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        return _ledger_trial(self._storage.get_trial(trial_id))

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

    def repair(self) -> None:
        """Let every trial wait that a dead supervisor left RUNNING."""
        for trial in self.trials():
            if trial.state is TrialState.RUNNING:
                self.hand_back(trial)

    def _set(self, trial: LedgerTrial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, key, value)


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


def _ledger_trial(trial: FrozenTrial) -> LedgerTrial:
    attributes = trial.user_attrs
    result = attributes.get("result")
    return LedgerTrial(
        number=trial.number,
        cell=attributes["cell"],
        state=trial.state,
        attempts=attributes["attempts"],
        threads=attributes["threads"],
        losses=attributes.get("losses", 0),
        tags=attributes.get("tags", {}),
        result=TrialResult(**result) if result else None,
        error=attributes.get("error"),
        _trial_id=trial._trial_id,
    )


def _use_wal(connection: Any, _record: Any) -> None:
    """Readers never wait for the writer, nor the writer for them."""
    connection.execute("PRAGMA journal_mode = WAL")
