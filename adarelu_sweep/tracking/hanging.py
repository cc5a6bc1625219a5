"""Telling a server that hangs from one that is slow to come up."""

import time
from collections.abc import Callable
from contextlib import suppress

import psutil

_PATIENCE = 10.0  # seconds in which a server that comes up does something
_SOMETHING = 0.1  # seconds of processor time


class Vigil:
    """Watches processes that do not answer.

    Args:
        processes: Returns those that there are.
    """

    def __init__(self, processes: Callable[[], list[psutil.Process]]) -> None:
        self._processes = processes
        self._used = 0.0
        self._since = time.monotonic()

    def hangs(self) -> bool:
        """Return whether they have done nothing for 10 s, nor waited for a disk."""
        used, waits = 0.0, False
        for process in self._processes():
            with suppress(psutil.Error):
                waits |= process.status() == psutil.STATUS_DISK_SLEEP
                times = process.cpu_times()
                used += times.user + times.system
        if waits or abs(used - self._used) >= _SOMETHING:
            self._used, self._since = used, time.monotonic()
        return time.monotonic() - self._since > _PATIENCE
