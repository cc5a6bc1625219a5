"""The first start of a home's MLflow server, which makes its database.

MLflow makes the tables in steps that cannot be taken up again: killed in their midst, it leaves a
file that no later start can use. Nothing is recorded before a server has answered, so what is left
of an unfinished first start is removed by the next.
"""

from pathlib import Path

from adarelu_sweep.files import sync_folder
from adarelu_sweep.home import Home

_PARTS = ("", "-journal", "-wal", "-shm")  # what SQLite keeps of a database


def prepare(home: Home) -> None:
    """Remove a database that was not finished; note it if the start to come makes one."""
    mark = _mark(home)
    if mark.exists():
        for part in _PARTS:
            home.mlflow_db.with_name(f"{home.mlflow_db.name}{part}").unlink(missing_ok=True)
    if not home.mlflow_db.exists():
        mark.touch()
        sync_folder(home.root)


def is_pending(home: Home) -> bool:
    """Return whether no server of this home has answered yet."""
    return _mark(home).exists()


def conclude(home: Home) -> None:
    """Note that the database is whole: from now on it is kept."""
    _mark(home).unlink(missing_ok=True)


def _mark(home: Home) -> Path:
    return home.mlflow_db.with_name(f"{home.mlflow_db.name}.unfinished")
