"""Optuna's database, the home's file or a server's, opened without a trace."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.recording.databases import connection_arguments, server_address
from adarelu_sweep.recording.ledger import PLAN
from adarelu_sweep.recording.opening import refuse_other_tables, require_optunas
from adarelu_sweep.secrets import in_one_line, without_password
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.wording import count

PATIENCE = 60.0
"""Seconds that the check of a large database may take."""
_BUSY = 5.0  # seconds that somebody may keep others out
_READ_ONLY = "-c default_transaction_read_only=on"


def optuna_database(path: Path) -> Finding:
    """Say whether a home's database opens, whose tables it has, and how many studies."""
    if not path.exists() or path.stat().st_size == 0:
        found = f"{path} is not there yet: the first launch makes it"
        return Finding("database", "optuna", State.ABSENT, found)
    try:
        found = _described(path)
    except (OSError, RuntimeError, sqlite3.Error, SQLAlchemyError, OptunaError) as error:
        reason = in_one_line(getattr(error, "orig", None) or error)
        remedy = "put back a copy of it, or give another --home"
        if "readonly" in reason:  # and no reader may take back what a killed writer left
            reason = "its writer was killed while it wrote"
            remedy = "run 'adarelu-sweep list', which takes back what is half done"
        if "optuna version" in reason:  # Optuna says what to do
            remedy = "another adarelu-sweep or Optuna made it: use that one, or another --home"
        return Finding("database", "optuna", State.FAILED, f"{path}: {reason}", remedy)
    return Finding("database", "optuna", State.OK, f"{path}: {found}")


def _described(path: Path) -> str:
    with closing(connect(path)) as connection:
        refuse_other_tables(connection)
        if (damage := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise RuntimeError(f"it is damaged ({damage})")
    how = {"creator": lambda: connect(path)}
    with _as_optuna_opens_it(f"sqlite:///{path}", how) as connected:
        contents = _contents(connected)
    kept = "a write-ahead log" if _has_write_ahead_log(path) else "a rollback journal"
    return f"{contents}, with {kept}"


def server_database(address: str) -> Finding:
    """Say whether the database of a server answers, whose tables it has, and how many studies."""
    shown = without_password(address)
    try:
        url = server_address(address)
        arguments = connection_arguments(url, _READ_ONLY) | {"connect_timeout": 5}
        how: dict[str, Any] = {"poolclass": NullPool, "connect_args": arguments}
        with closing(create_engine(url, **how).connect()) as connection:
            tables = set(inspect(connection).get_table_names())
        require_optunas(tables)
        if not tables:
            found = f"{shown} answers and is empty: the first launch makes its tables"
            return Finding("database", "optuna", State.ABSENT, found)
        with _as_optuna_opens_it(url, how, whole=True) as connected:
            found = f"{shown} answers: {_contents(connected)}"
    except (RuntimeError, SQLAlchemyError, OptunaError) as error:
        reason = in_one_line(getattr(error, "orig", None) or error)
        remedy = "start the server, correct the address, or give another --storage"
        return Finding("database", "optuna", State.FAILED, f"{shown}: {reason}", remedy)
    return Finding("database", "optuna", State.OK, found)


def recorded_plans(where: Path | str) -> list[StudyRecord]:
    """Return the plans of all studies; none where the database has none or cannot be read."""
    query = "SELECT value_json FROM study_user_attributes WHERE key = '" + PLAN + "'"
    try:
        if isinstance(where, Path):
            with closing(connect(where)) as file:
                found = file.execute(query).fetchall()
        else:
            url = server_address(where)
            arguments = connection_arguments(url, _READ_ONLY) | {"connect_timeout": 5}
            engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
            with engine.connect() as connection:
                found = [tuple(row) for row in connection.execute(text(query))]
        return [StudyRecord.model_validate_json(json.loads(plan)) for (plan,) in found]
    except (OSError, ValueError, RuntimeError, sqlite3.Error, SQLAlchemyError):
        return []  # the check of the database says why


def _contents(connection: Connection) -> str:
    version = connection.execute(text("SELECT library_version FROM version_info")).scalar()
    schema = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    plans = text("SELECT count(*) FROM study_user_attributes WHERE key = :plan")
    studies = connection.execute(plans, {"plan": PLAN}).scalar() or 0
    return f"tables {schema} of Optuna {version}, {count(studies, 'study', 'studies')}"


def _has_write_ahead_log(path: Path) -> bool:
    """Return what the header says: of a file that stays as it is, SQLite itself says otherwise."""
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\x02\x02"


@contextmanager
def _as_optuna_opens_it(url: str, how: dict[str, Any], whole: bool = False) -> Iterator[Connection]:
    """Open a database as a sweep does; raise RuntimeError where Optuna would not work with it."""
    storage = RDBStorage(url, engine_kwargs=dict(how), skip_table_creation=whole)
    try:
        with storage.engine.connect() as connection:
            yield connection
    finally:
        storage.remove_session()
        storage.engine.dispose()


def connect(path: Path) -> sqlite3.Connection:
    """Open a SQLite file that is there so that neither it nor its folder is changed.

    To read a database with a write-ahead log, SQLite makes that log and its index where they are
    not there, and leaves them. As long as nobody has it open they are not, and then nobody changes
    it: it is read as a file that stays as it is.
    """
    in_use = any(path.with_name(f"{path.name}-{end}").exists() for end in ("wal", "journal"))
    how = "mode=ro" if in_use else "immutable=1"
    uri = f"file:{quote(str(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY, check_same_thread=False)
