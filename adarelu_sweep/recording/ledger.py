"""The Optuna book: which trials a study has, and the state of each.

A study is an Optuna study of the same name whose plan is a user attribute, set in one transaction:
without it there is no study. A trial is made when its cell is first dispatched, in one transaction
that carries the cell's key, and never again: what waits is the plan minus the trials. A search has,
beside that study, one for every arm (``ArmBook``), named "STUDY/ARM", with trials of its own.
"""

import sqlite3
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import TrialState
from sqlalchemy import MetaData, select
from sqlalchemy.exc import SQLAlchemyError

from adarelu_sweep.components import unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.recording.books import INDEX, ArmBook, Book
from adarelu_sweep.recording.changes import find_trial, insert_trial
from adarelu_sweep.recording.databases import open_file, open_server, owned, owner, server_address
from adarelu_sweep.recording.opening import damage_explained, read_record
from adarelu_sweep.recording.patience import Patience, no_room_explained
from adarelu_sweep.recording.trials import CELL, LedgerTrial, attributes, ledger_trial
from adarelu_sweep.secrets import without_password
from adarelu_sweep.studies.plan import Cell
from adarelu_sweep.studies.record import StudyRecord

_TABLES = {  # of those with a study or a trial; a server's database may hold others
    *("studies", "study_directions", "study_user_attributes", "study_system_attributes"),
    *("trials", "trial_user_attributes", "trial_system_attributes", "trial_params"),
    *("trial_values", "trial_intermediate_values", "trial_heartbeats"),
}
PLAN = "adarelu_sweep.plan"
"""The attribute of an Optuna study that makes it one of ours."""
_DELETION = "adarelu_sweep.deletion"  # it has begun: what is left of the study is no study

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Ledger:
    """All studies of one home."""

    def __init__(self, where: Path | str, alone: bool = False, existing: bool = False) -> None:
        """Open the home's file, or a server's database; raise UserError if it cannot be used.

        What is not there is made, unless a server's tables are to be ``existing`` ones. If
        ``alone``, nobody else can use a file until it is closed; then a full disk will do.
        """
        self.patience = Patience()
        shown = where if isinstance(where, Path) else without_password(where)
        try:
            with no_room_explained(shown):
                if isinstance(where, Path):
                    self.storage = open_file(where, alone)
                else:
                    self.storage = open_server(server_address(where), existing)
        except UserError:
            raise
        except (
            *(OSError, RuntimeError, sqlite3.Error, UnicodeError),
            *(SQLAlchemyError, optuna.exceptions.OptunaError),
        ) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{shown}: not a usable Optuna database ({reason})") from None
        if isinstance(where, Path):
            with suppress(OSError):  # somebody else's file, opened to look at it
                where.chmod(0o600)

    @classmethod
    def existing(cls, where: Path | str, alone: bool = False) -> "Ledger":
        """Open a home's ledger without making a home where there is none."""
        if isinstance(where, Path) and not where.exists():
            raise UserError(f"no studies in {where.parent}: launch one, or give another --home")
        return cls(where, alone, existing=True)

    def owned(self, name: str) -> AbstractContextManager[None]:
        """Have the right to write a study's book where it is a server that gives it.

        Raises TakenError, then or at any write, if another supervisor has it.
        """
        return owned(self.storage.engine, name)

    def names(self) -> list[str]:
        """Return the names of the studies whose plan is recorded, oldest first."""
        return [name for name, deleted in self._recorded().items() if not deleted]

    def is_half_deleted(self, name: str) -> bool:
        """Return whether the deletion of a study was cut off."""
        return self._recorded().get(name, False)

    def refuse_half_deleted(self) -> None:
        """Raise UserError if there is a study whose deletion was cut off."""
        for name, deleted in self._recorded().items():
            if deleted:
                raise _half_deleted(name)

    def _recorded(self) -> dict[str, bool]:
        """Return the names of all that is recorded, and whether it is half deleted."""
        with damage_explained():
            studies = self.storage.get_all_studies()
        studies.sort(key=lambda study: study._study_id)
        return {s.study_name: _DELETION in s.user_attrs for s in studies if PLAN in s.user_attrs}

    def refuse_existing(self, name: str) -> None:
        """Raise UserError if a study of that name exists."""
        deleted = self._recorded().get(name)
        if deleted:
            raise _half_deleted(name)
        if deleted is not None:
            raise UserError(
                f"study {name!r} exists: go on with 'adarelu-sweep resume {name}', "
                "or launch under another --name"
            )

    def create(self, record: StudyRecord) -> "StudyLedger":
        """Record a study's plan; raise UserError if a study of that name exists."""
        name = record.study.name
        self.refuse_existing(name)
        study_id = self._make(name)
        self._make_arms(record)
        self.storage.set_study_user_attr(study_id, PLAN, record.model_dump_json())
        return StudyLedger(self.storage, name, record, self.patience)

    def extend(self, record: StudyRecord) -> "StudyLedger":
        """Replace the plan of a study that its caller supervises by one that adds to it."""
        name = record.study.name
        for book in self.open(name).searches():
            book.keep_index()
        self._make_arms(record)
        study_id = self.storage.get_study_id_from_name(name)
        self.storage.set_study_user_attr(study_id, PLAN, record.model_dump_json())
        return self.open(name)

    def _make_arms(self, record: StudyRecord) -> None:
        """Make the Optuna studies of a search that are not there, each with the next free index."""
        if not record.study.search:
            return
        prefix = f"{record.study.name}/"
        there = [s for s in self.storage.get_all_studies() if s.study_name.startswith(prefix)]
        indexed = {s.study_name for s in there if INDEX in s.user_attrs}
        free = count(max((s.user_attrs.get(INDEX, -1) for s in there), default=-1) + 1)
        for arm in record.study.arms():
            if (name := prefix + arm.label) not in indexed:
                self.storage.set_study_user_attr(self._make(name), INDEX, next(free))

    def _make(self, name: str) -> int:
        """Make an Optuna study, or take one that a launch left which was cut off."""
        try:
            return self.storage.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:
            study_id = self.storage.get_study_id_from_name(name)
            if self.storage.get_all_trials(study_id, False):
                raise UserError(
                    f"the Optuna database holds a study {name!r} that is not adarelu-sweep's: "
                    "launch under another --name"
                ) from None
            return study_id

    def open(self, name: str, half_deleted: bool = False) -> "StudyLedger":
        """Return a study's ledger; raise UserError if there is no such study.

        One whose deletion was cut off is opened only if ``half_deleted``.
        """
        recorded = self._recorded()
        if name not in recorded:
            names = list(recorded)
            hint = unknown("study", name, names) if names else f"unknown study {name!r}"
            raise UserError(f"{hint}; see 'adarelu-sweep list'")
        if recorded[name] and not half_deleted:
            raise _half_deleted(name)
        with damage_explained():  # its index may know a study that its table does not
            study_id = self.storage.get_study_id_from_name(name)
            plan = self.storage.get_study_user_attrs(study_id)[PLAN]
        record = read_record(name, plan)
        return StudyLedger(self.storage, name, record, self.patience)

    def optuna_studies(self, name: str) -> list[FrozenStudy]:
        """Return the Optuna studies of a study, as far as there are any: its own, its searches'."""
        every = self.storage.get_all_studies()
        return [study for study in every if f"{study.study_name}/".startswith(f"{name}/")]

    def begin_deletion(self, name: str) -> None:
        """Make a study one that can only be deleted, before anything of it is lost."""
        study_id = self.storage.get_study_id_from_name(name)
        self.storage.set_study_user_attr(study_id, _DELETION, True)

    def delete(self, name: str) -> None:
        """Forget a study and the searches of its arms, in one transaction.

        Optuna's own ``delete_study`` loads every value of every trial first.
        """
        tables = MetaData()
        tables.reflect(self.storage.engine, only=lambda name, _: name in _TABLES)
        studies = [study._study_id for study in self.optuna_studies(name)]
        trials = select(tables.tables["trials"].c.trial_id).where(
            tables.tables["trials"].c.study_id.in_(studies)
        )
        with self.storage.engine.begin() as connection:
            for table in reversed(tables.sorted_tables):
                if "study_id" in table.c:
                    connection.execute(table.delete().where(table.c.study_id.in_(studies)))
                elif "trial_id" in table.c:
                    connection.execute(table.delete().where(table.c.trial_id.in_(trials)))

    def close(self) -> None:
        """Close every connection."""
        self.storage.remove_session()
        self.storage.engine.dispose()


class StudyLedger(Book):
    """The book of a whole study: its plan, and the trials of its cells."""

    def __init__(
        self, storage: RDBStorage, name: str, record: StudyRecord, patience: Patience
    ) -> None:
        super().__init__(storage, name, patience)
        self.record = record

    def repair(self) -> None:
        """Let every trial wait that a dead supervisor left RUNNING, those of a search too."""
        super().repair()
        for book in self.searches():
            book.repair()

    def begin(self, cell: Cell, threads: int) -> LedgerTrial:
        """Make the trial of a cell that never had one, RUNNING, in its first attempt."""
        carried = attributes(cell, threads)
        engine, attempts = self._storage.engine, count()

        def make() -> tuple[int, int]:
            # A server may have made it and be gone before it said so.
            made = next(attempts) and find_trial(engine, self._study_id, CELL, cell.key)
            return made or insert_trial(engine, self._study_id, carried)

        trial_id, number = self.patience.do(make)
        return ledger_trial(trial_id, number, TrialState.RUNNING, carried, {})

    def owner(self) -> tuple[int, str, str] | None:
        """Return who supervises the study, where a server knows: process, host, since when."""
        return owner(self._storage.engine, self.name)

    def searches(self) -> "list[ArmBook]":
        """Return the book of every arm's search, in the order of the arms; none without one."""
        study = self.record.study
        if study.search is None:
            return []
        return [
            ArmBook(self._storage, f"{self.name}/{arm.label}", self.patience, arm, index)
            for index, arm in enumerate(study.arms())
        ]


def _half_deleted(name: str) -> UserError:
    return UserError(
        f"the deletion of study {name!r} was cut off: finish it with 'adarelu-sweep delete {name}'"
    )
