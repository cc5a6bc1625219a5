"""Setting aside a database of the home once another one has taken its place."""

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from adarelu_sweep.errors import UserError
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
            if reason := _why_not_whole(file):
                raise UserError(
                    f"all was moved, but {file} cannot be renamed yet ({reason}): mend that, and "
                    "repeat the command"
                )
            file.rename(aside)


def _why_not_whole(file: Path) -> str | None:
    """Fold a database's log into its file; return what keeps it from that."""
    with closing(sqlite3.connect(file)) as connection:
        try:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            return str(error)
    return "somebody reads it" if busy else None
