"""The signals that ask a process to stop, and the exit codes that answer them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR2,  # the warning that Slurm's --signal=USR2@SECONDS sends before the end
    signal.SIGHUP,  # the terminal is closed
)


class StopSignal(KeyboardInterrupt):
    """One of the signals came: what is at hand is given up, as for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal has stopped.

    That of SIGUSR2 is SIGTERM's: for the one who waits, both say that the time is up.
    """
    return 128 + (signal.SIGTERM if number == signal.SIGUSR2 else number)


def raise_on_stop_signals() -> None:
    """Let the signals raise ``StopSignal`` in the main thread from now on."""

    def handle(number: int, _frame: FrameType | None) -> None:
        raise StopSignal(number)

    for number in _heeded():
        signal.signal(number, handle)


@contextmanager
def stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` with every such signal's number, within a handler, while the block runs."""

    def handler(number: int, _frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _heeded() -> list[signal.Signals]:
    """Return the signals, but for a SIGHUP that nohup has made the process ignore."""
    return [
        number
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]
