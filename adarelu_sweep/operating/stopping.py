"""Asking the supervisor of a study to stop, from another process."""

import signal
import time
from collections.abc import Callable

import psutil

from adarelu_sweep.errors import UserError
from adarelu_sweep.recording.lease import Holder, Lease

_BETWEEN_SIGNALS = 0.5  # seconds; two of a kind at a time would arrive as one
_PATIENCE = 10.0  # seconds for a supervisor to leave at once
_LONG = 15.0  # seconds after which who waits is told how not to
_LOOK = 0.1


def stop(lease: Lease, study: str, now: bool, say: Callable[[str], None]) -> bool:
    """Stop the supervisor that holds a lease, and return once it has let go of it.

    Args:
        lease: The study's.
        study: Its name.
        now: Do not let it finish the steps in hand; kill it if it does not leave within 10 s.
        say: Told, in a line, what is waited for.

    Returns:
        Whether there was one. Raises UserError if it cannot be reached from here.
    """
    holder = lease.holder()
    if holder is None:
        return False
    process = _process(holder, lease, study)
    if process is None:
        return False
    say(f"asking {holder} to stop")
    _send(process, signal.SIGTERM, study)
    if now:
        if not _is_released(lease, holder, _BETWEEN_SIGNALS):
            _send(process, signal.SIGTERM, study)
        if not _is_released(lease, holder, _PATIENCE):
            say(f"killing {holder}")
            _send(process, signal.SIGKILL, study)
    elif not _is_released(lease, holder, _LONG):
        say(f"it takes its time; end it with 'adarelu-sweep stop {study} --now'")
    while not _is_released(lease, holder, _LONG):
        pass
    return True


def _process(holder: Holder, lease: Lease, study: str) -> psutil.Process | None:
    """Return the process to signal: the very one that holds the lease, None if it has ended."""
    if not holder.is_here():
        raise UserError(f"study {study!r} is being run by {holder}: stop it there")
    if not lease.is_taken():  # what has its process id now is another
        return None
    return holder.process()


def _send(process: psutil.Process, number: signal.Signals, study: str) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise UserError(
            f"study {study!r} is being run by process {process.pid}, which is another user's: "
            "ask its owner to stop it"
        ) from None


def _is_released(lease: Lease, holder: Holder, seconds: float) -> bool:
    """Wait this long for the holder to let go; return whether it did."""
    deadline = time.monotonic() + seconds
    while lease.holder() == holder:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK)
    return True
