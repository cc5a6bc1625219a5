"""Saving beside the training, which waits neither for the disk nor, if it is full, for room.

Where it is an object store that is not reached, neither for that.
"""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from typing import TypeVar

from adarelu_sweep.files import NO_ROOM
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.training.history import EpochRecord
from adarelu_sweep.training.stopping import StopRequestedError

_PAUSE = 1.0  # seconds between two attempts where there is no room

Returned = TypeVar("Returned")


class Saver:
    """Writes what a trial goes on from in a thread, one checkpoint at a time.

    A record is handed out once a checkpoint that holds it is whole.

    Args:
        stop_requested: Asked while it waits: whether to give up, and as a sign that it waits.
        say: Told once, in one line, what it waits for.
        guard: Called before anything is written; raises where it must not be, or not now.
    """

    def __init__(
        self,
        stop_requested: Callable[[], bool],
        say: Callable[[str], None],
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._stop_requested = stop_requested
        self._say = say
        self._guard = guard
        self._told = False
        self._thread = ThreadPoolExecutor(1, "saving")
        self._writing: Future[OSError | None] | None = None
        self._unsaved: list[EpochRecord] = []
        self._whole: list[EpochRecord] = []

    def save(self, write: Callable[[], None], record: EpochRecord | None = None) -> None:
        """Begin to write what holds a record and all before it; first wait for what is written.

        Raises what went wrong with that, unless it may pass: then its records wait for this one.
        """
        self.wait()
        if record is not None:
            self._unsaved.append(record)
        self._begin(write)

    def save_and_wait(self, write: Callable[[], None], record: EpochRecord | None = None) -> None:
        """Write, as often as it takes until it succeeds; raise StopRequestedError if asked to."""
        self.save(write, record)
        while not self.wait():
            if self._stop_requested():
                raise StopRequestedError
            time.sleep(_PAUSE)
            self._begin(write)

    def _begin(self, write: Callable[[], None]) -> None:
        self._writing = self._thread.submit(_attempt, write, self._guard)

    def wait(self) -> bool:
        """Wait for what is being written; return False if that is to be tried again."""
        writing, self._writing = self._writing, None
        if writing is not None:
            while not wait_for([writing], _PAUSE).done:
                self._stop_requested()
            if (passing := writing.result()) is not None:
                self._tell(passing)
                return False
            self._whole += self._unsaved
            self._unsaved = []
        return True

    def whole(self) -> Iterator[EpochRecord]:
        """Hand out the records that have become whole, without waiting for more."""
        if self._writing is not None and self._writing.done():
            self.wait()
        whole, self._whole = self._whole, []
        yield from whole

    def beside(
        self, work: Generator[None, None, Returned]
    ) -> Generator[EpochRecord | None, None, Returned]:
        """Take the turns of work, and hand out between them what has become whole."""
        with closing(work):
            while True:
                try:
                    next(work)
                except StopIteration as stopped:
                    result: Returned = stopped.value
                    return result
                yield from self.whole()
                yield None

    def close(self) -> None:
        """Wait for what is being written, however it ends."""
        self._thread.shutdown()

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._say(f"{_trouble(error)}: training goes on, and it is written once that is over")


def _attempt(write: Callable[[], None], guard: Callable[[], None]) -> OSError | None:
    """Write; return the error if it may pass, without what it would keep in memory."""
    try:
        guard()
        try:
            write()
        except OSError:
            guard()  # a folder that went meanwhile: that may pass, whatever the error
            raise
    except OSError as error:
        if error.errno not in NO_ROOM and not isinstance(error, StorageError):
            raise
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return None


def _trouble(error: OSError) -> str:
    if isinstance(error, StorageError):
        return f"its checkpoint is not written ({error})"
    return f"its checkpoint finds no room ({error.strerror})"
