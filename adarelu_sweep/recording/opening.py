"""Making a database whole, and what is refused of one and of its plans before they are used."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from adarelu_sweep._version import __version__
from adarelu_sweep.components import shorten
from adarelu_sweep.errors import UserError
from adarelu_sweep.files import sync_folder
from adarelu_sweep.studies.record import StudyRecord

BUSY_TIMEOUT_SECONDS = 30
_NO_TEXT = "Could not decode to UTF-8"  # how SQLite says it


class AloneConnection(sqlite3.Connection):
    """Keeps all others out, and so needs no file of shared memory beside the database.

    A full disk has no room for that file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA locking_mode = EXCLUSIVE")


def refuse_others(path: Path, alone: bool) -> None:
    """Raise RuntimeError for a database that is not Optuna's, before Optuna makes its tables in it.

    Read only: nothing of a file that is refused is changed. (To be alone takes the right to write,
    and so does taking back what a killed writer left half done.) Raises sqlite3.Error for what is
    no database.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    writing = alone or path.with_name(f"{path.name}-journal").exists()
    uri = f"file:{quote(str(path))}?mode={'rw' if writing else 'ro'}"
    kind = AloneConnection if alone else sqlite3.Connection
    with closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, factory=kind)
    ) as connection:
        refuse_other_tables(connection)


def refuse_other_tables(connection: sqlite3.Connection) -> None:
    """Raise RuntimeError for a file whose tables are not Optuna's."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    require_optunas({name for (name,) in found})


def require_optunas(tables: set[str]) -> None:
    """Raise RuntimeError for the tables of somebody else; no tables at all are as good."""
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise RuntimeError("its tables are not Optuna's")


def make(path: Path) -> None:
    """Make a database with Optuna's tables and nothing in them, whole or not at all.

    Optuna makes one table after the other: killed meanwhile, it would leave a file that is neither
    new nor its own.
    """
    aside = path.with_name(f"{path.name}.new")
    for left in (aside, aside.with_name(f"{aside.name}-journal")):  # by one that was killed
        left.unlink(missing_ok=True)
    try:
        storage = RDBStorage(f"sqlite:///{aside}")
        storage.remove_session()
        storage.engine.dispose()
        aside.replace(path)
    except BaseException:  # such as that the disk is full
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def set_journal(mode: str, connection: Any, _record: Any) -> None:
    """With a write-ahead log readers never wait for the writer, nor the writer for them.

    Where it cannot be had, SQLite keeps to the journal that works everywhere.
    """
    with suppress(sqlite3.Error):
        connection.execute(f"PRAGMA journal_mode = {mode}")


@contextmanager
def damage_explained() -> Iterator[None]:
    """Turn what is raised on content that nobody here wrote into a UserError."""
    try:
        yield
    # Of JSON that is none, of names that are not known, of values of another type.
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_ours(f"{type(error).__name__}: {error}") from None
    except (StorageInternalError, SQLAlchemyError) as error:
        # Other troubles with a database, such as a lock, say nothing of what it holds.
        said = str(error.__cause__ or error)
        if _NO_TEXT not in said:
            raise
        raise _not_ours(said[said.index(_NO_TEXT) :]) from None


def _not_ours(reason: str) -> UserError:
    return UserError(
        f"the Optuna database holds what adarelu-sweep did not write "
        f"({' '.join(reason.split())[:200]}): put back a copy of it, or give another --home"
    )


def read_record(name: str, plan: Any) -> StudyRecord:
    """Return what is remembered of a study; raise UserError for what is not this version's."""
    try:
        record = StudyRecord.model_validate_json(plan)
    except (ValidationError, TypeError):
        raise UserError(
            f"study {name!r} has a plan that adarelu-sweep {__version__} cannot read"
            f"{_recorded_by(plan)}"
        ) from None
    # The name becomes a path; what this version would not have recorded, it does not follow.
    if record.study.name != name:
        raise UserError(f"study {name!r} has the plan of {record.study.name!r}: it is not used")
    return record


def _recorded_by(plan: Any) -> str:
    try:
        version = json.loads(plan)["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        version = __version__
    if version == __version__:
        return ": it is damaged"
    return f": it was recorded by {shorten(version)}; use that version"
