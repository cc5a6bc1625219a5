"""Waiting out a full disk, or a database that is locked or away: no night's work ends by it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import OperationalError

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import NO_ROOM

T = TypeVar("T")

_PAUSE = 1.0  # seconds from one attempt to the next
_TICK = 0.1  # seconds after which a request to stop is noticed
# How SQLite says it. "disk I/O error" is what it makes of a write that a quota or limit refuses.
_LOCKED = "database is locked"
_PASSING = ("database or disk is full", "disk I/O error", _LOCKED)
_AWAY = "the database server does not answer"
# What it says to somebody who may not, or to nobody it knows: waiting does not help.
_REFUSED = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
)


class OutOfPatienceError(Exception):
    """What was to be recorded could not be, and it was asked to stop."""


class NoRoomError(UserError):
    """What was to be written could not be, and nobody is to wait for room."""


class Patience:
    """Repeats what fails for now until it succeeds, or until somebody asks to stop.

    Only what may be repeated at will is to be done this way, also where it has succeeded and the
    answer was lost. Without ``say`` there is no patience: the error is raised as it is.
    """

    def __init__(self) -> None:
        self.say: Callable[[str], None] | None = None
        """Told once, in one line, that a wait begins."""
        self.exhausted = False
        """Set, by a signal handler for one, when there is no time to wait any longer."""

    def do(self, action: Callable[[], T]) -> T:
        """Return what the action returns; raise OutOfPatienceError when asked to stop meanwhile."""
        told = False
        while True:
            try:
                return action()
            except Exception as error:
                reason = passing_reason(error)
                if reason is None or self.say is None:
                    raise
                if not told:
                    until = "it does" if reason.startswith(_AWAY) else "there is room"
                    self.say(f"{reason}: what is to be recorded waits until {until}")
                    told = True
                self._pause(reason)

    def _pause(self, reason: str) -> None:
        until = time.monotonic() + _PAUSE
        while time.monotonic() < until:
            if self.exhausted:
                raise OutOfPatienceError(reason)
            time.sleep(_TICK)


@contextmanager
def no_room_explained(path: Path | str) -> Iterator[None]:
    """Raise UserError, NoRoomError for one, where something cannot be written for now."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = passing_reason(error)
        if reason is None:
            raise
        if reason.startswith(_AWAY):
            raise UserError(f"{path}: {reason}: repeat the command when it does") from error
        if reason == _LOCKED:
            raise UserError(f"{path}: {reason} by another process: repeat the command") from error
        raise NoRoomError(
            f"the disk that holds {path} is full, or a quota is reached ({reason}): make room and "
            "repeat the command; nothing is lost"
        ) from error


def passing_reason(error: BaseException) -> str | None:
    """Return why a write failed if it may succeed later, in a few words; else None."""
    cause: BaseException | None = error
    while cause is not None:  # Optuna and SQLAlchemy wrap what SQLite says
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return str(cause.strerror)
        if isinstance(cause, OperationalError) and isinstance(cause.orig, _server_trouble()):
            said_by_it = " ".join(str(cause.orig).split())
            refused = any(reason in said_by_it for reason in _REFUSED)
            return None if refused else f"{_AWAY} ({said_by_it})"
        for said in _PASSING:
            if said in str(cause):
                return said
        cause = cause.__cause__
    return None


def _server_trouble() -> tuple[type[Exception], ...]:
    """Return what psycopg, where it is in use, raises on a server or connection in trouble."""
    psycopg = sys.modules.get("psycopg")
    return (psycopg.OperationalError,) if psycopg else ()
