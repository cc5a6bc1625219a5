"""Setting aside a database of the home once another one has taken its place."""

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from adarelu_sweep.home import Home


def set_aside(home: Home, file: Path, name: str) -> None:
    """Give an SQLite file another name, its log folded in, unless that was done before.

    Whoever uses the home looks where the records are, so that it may be done at any time after: a
    move that was cut off before it is finished by the next.
    """
    if not file.exists():
        return
    with FileLock(home.switch_lock):
        aside = file.with_name(name)
        if file.exists() and not aside.exists():
            with closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            file.rename(aside)
