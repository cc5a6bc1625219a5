"""Waiting for a store, which may hang for as long as its client is patient."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import TypeVar

from adarelu_sweep.storing.places import Place

_PAUSE = 1.0  # seconds between two signs of life

Returned = TypeVar("Returned")


def awaited(
    place: Place, work: Callable[[], Returned], meanwhile: Callable[[], object]
) -> Returned:
    """Do what concerns a place; if that is in a store, in a thread, and ``meanwhile`` every second.

    What ``meanwhile`` raises ends the waiting and leaves the work to itself: it must change
    nothing then. A disk gets no such signs of life: one that hangs does so for ever, and whoever
    waits for it is to be missed.
    """
    if isinstance(place, Path):
        return work()
    doing: Future[Returned] = Future()

    def do() -> None:
        try:
            doing.set_result(work())
        except BaseException as error:
            doing.set_exception(error)

    Thread(target=do, name="store", daemon=True).start()
    while not wait([doing], _PAUSE).done:
        meanwhile()
    return doing.result()
