"""The first start of a home's MLflow server, which makes its databases.

MLflow makes the tables in steps that cannot be taken up again: killed in their midst, it leaves a
file that no later start can use. Nothing is recorded before a server has answered, so what is left
of an unfinished first start is removed by the next. The database of the users is made by the first
start that asks for a password, which may be a later one.
"""

from pathlib import Path

from adarelu_sweep.files import sync_folder
from adarelu_sweep.home import Home
from adarelu_sweep.tracking import authentication

_PARTS = ("", "-journal", "-wal", "-shm")  # what SQLite keeps of a database


def prepare(home: Home) -> None:
    """Remove databases that were not finished; note those that the start to come makes."""
    for database in _databases(home):
        mark = _mark(database)
        if mark.exists():
            for part in _PARTS:
                database.with_name(f"{database.name}{part}").unlink(missing_ok=True)
        if not database.exists():
            mark.touch()
            sync_folder(database.parent)


def is_pending(home: Home) -> bool:
    """Return whether no server has answered yet that uses the home's databases."""
    return any(_mark(database).exists() for database in _databases(home))


def conclude(home: Home) -> None:
    """Note that the databases are whole: from now on they are kept."""
    for database in _databases(home):
        _mark(database).unlink(missing_ok=True)


def _databases(home: Home) -> list[Path]:
    asks = authentication.is_on(home)
    files = [home.mlflow_db] if home.tracking_storage() is None else []
    return [*files, *([authentication.users_database(home)] if asks else [])]


def _mark(database: Path) -> Path:
    return database.with_name(f"{database.name}.unfinished")
