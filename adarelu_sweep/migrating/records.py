"""Moving MLflow's records of a home from its file to a database server, whole or not at all.

MLflow makes its tables there itself; what is in them is copied and compared in one transaction, and
only then does the home use it. Artifacts stay where they are: MLflow knows them by addresses that
its server gives a meaning to.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Connection, Engine, Table, create_engine, inspect, literal, select, text
from sqlalchemy.exc import SQLAlchemyError

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.migrating.copying import content, copy, layout, tables
from adarelu_sweep.migrating.setting_aside import set_aside
from adarelu_sweep.recording.databases import connection_arguments, server_address
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.opening import BUSY_TIMEOUT_SECONDS
from adarelu_sweep.recording.patience import no_room_explained
from adarelu_sweep.secrets import in_one_line, without_password
from adarelu_sweep.tracking import first_start
from adarelu_sweep.tracking.server import kept_down
from adarelu_sweep.wording import count

MOVED = "mlflow-moved.db"
"""What the home's file is called once another database has taken its place."""
_VERSION = "alembic_version"  # the table that says which MLflow made the others
_SEEDED = "workspaces"  # MLflow puts one in when it makes its tables


def migrate_records(home: Home, address: str, say: Callable[[str], None]) -> None:
    """Move MLflow's records of a home to a PostgreSQL database of their own.

    Raises UserError, and changes nothing of the home, if its server is up, if one of its studies is
    being run, if the database holds anything else, or if what was copied is not what stands in the
    home. May be repeated, wherever it was cut off.
    """
    address = server_address(address, "--tracking-to")
    shown = without_password(address)
    if _is_moved(home, shown):
        set_aside(home, home.mlflow_db, MOVED)
        return say(f"MLflow's records of {home.root} are in {shown}")
    with _all_at_rest(home):
        if _is_moved(home, shown):
            raise UserError(
                f"MLflow's records of {home.root} were moved meanwhile: repeat the command"
            )
        rows = _move(home, address, shown)
    set_aside(home, home.mlflow_db, MOVED)
    for table, number in rows.items():
        say(f"MLflow's {table}: {count(number, 'row')} copied and compared")
    say(
        f"MLflow's records of {home.root} are in {shown}, and its server uses them: "
        f"'adarelu-sweep server start'; {MOVED} is what was here"
    )


def _is_moved(home: Home, shown: str) -> bool:
    """Return whether the records are there; raise UserError where they cannot be moved there."""
    kept, moved = home.tracking_storage(), home.root / MOVED
    if kept is not None:
        if kept != shown:
            raise UserError(f"MLflow's records of {home.root} are in {kept} already")
        return True
    if not home.mlflow_db.exists() or first_start.is_pending(home):
        raise UserError(f"{home.root} has no records of MLflow yet: launch a study there first")
    if moved.exists():
        raise UserError(f"{moved} is in the way: move it elsewhere, or remove it")
    return False


@contextmanager
def _all_at_rest(home: Home) -> Iterator[None]:
    """Have no study of the home run, begin or go, and no server; raise UserError where one does."""
    folders = _study_folders(home)
    with ExitStack() as rights:
        for folder in folders:
            rights.enter_context(Lease(folder, folder.name))
        rights.enter_context(kept_down(home))
        rights.enter_context(FileLock(home.switch_lock))  # from here on no study begins
        if _study_folders(home) != folders:
            raise UserError("a study was launched meanwhile: repeat the command")
        yield


def _study_folders(home: Home) -> list[Path]:
    return sorted(home.trials.glob("*/"))


def _move(home: Home, address: str, shown: str) -> dict[str, int]:
    """Copy all records, compare them and have the home use them; return each table's rows."""
    from adarelu_sweep.recording.silence import connector  # psycopg, only where it is used

    connect = connector(address, connection_arguments(address, ""))
    waiting = {"timeout": BUSY_TIMEOUT_SECONDS}
    with (
        _trouble_explained(shown),
        _engine(f"sqlite:///{home.mlflow_db}", connect_args=waiting) as source,
        _engine(address, creator=connect) as target,
    ):
        _require_current(home, source)
        _make_tables(target, shown)
        with source.connect() as here, target.begin() as there:
            with no_room_explained(home.mlflow_db):
                here.exec_driver_sql("BEGIN IMMEDIATE")  # nobody writes until it is moved
            rows = _copy(here, there, shown)
            there.commit()
            home.keep_tracking_storage(address)  # from here on the records are there
    return rows


def _require_current(home: Home, engine: Engine) -> None:
    """Raise UserError unless the tables of the home are those of the MLflow that is installed."""
    from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version

    if _get_schema_version(engine) != _get_latest_schema_revision():  # type: ignore[no-untyped-call]
        raise UserError(
            f"{home.mlflow_db} was made by another version of MLflow: bring it up to date with "
            f"'mlflow db upgrade sqlite:///{home.mlflow_db}', and repeat the command"
        )


def _make_tables(engine: Engine, shown: str) -> None:
    """Let MLflow make its tables, or finish them; raise UserError where there are others."""
    from mlflow.store.db.utils import (
        _get_latest_schema_revision,
        _get_schema_version,
        _initialize_tables,
    )

    there = set(inspect(engine).get_table_names())
    if there and not {"experiments", "runs"} <= there:
        raise UserError(f"{shown} holds tables that are not MLflow's: give an empty database")
    version = _get_schema_version(engine)  # type: ignore[no-untyped-call]
    if version is None:
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    elif version != _get_latest_schema_revision():  # type: ignore[no-untyped-call]
        raise UserError(f"{shown} is of another version of MLflow: give an empty database")


def _copy(here: Connection, there: Connection, shown: str) -> dict[str, int]:
    """Copy all records, unless that was done before, and compare; return each table's rows."""
    if layout(here) != layout(there):
        raise UserError(f"{shown} has other tables than the home: give an empty database")
    every = [table for table in tables(there) if table.name != _VERSION]
    names = ", ".join(map(there.dialect.identifier_preparer.format_table, every))
    there.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))  # others may read
    filled = any(_is_filled(there, table) for table in every)
    if not filled:
        for table in every:
            there.execute(table.delete())
            copy(here, there, table)
    rows = {}
    for table in every:
        stands = content(here, table)
        if stands != content(there, table):
            if filled:
                raise UserError(f"{shown} holds other records: give an empty database")
            raise UserError(f"the copy of MLflow's {table.name} differs: nothing is moved")
        if stands[0]:
            rows[table.name] = stands[0]
    return rows


def _is_filled(there: Connection, table: Table) -> bool:
    """Return whether a table holds more than what MLflow puts there when it makes it."""
    found = there.execute(select(literal(1)).select_from(table).limit(2)).all()
    return len(found) > (table.name == _SEEDED)


@contextmanager
def _engine(address: str, **how: Any) -> Iterator[Engine]:
    engine = create_engine(address, **how)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _trouble_explained(shown: str) -> Iterator[None]:
    """Say in one line what a database, or MLflow, does not like."""
    from mlflow.exceptions import MlflowException

    try:
        with no_room_explained(shown):
            yield
    except (SQLAlchemyError, MlflowException) as error:
        said = in_one_line(getattr(error, "orig", None) or error)
        raise UserError(f"MLflow's records are not moved to {shown}: {said}") from None
