"""The supervisor's log: a file that is always written, and that never stands in a sweep's way."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

_OUTPUTS = (1, 2)


def open_log(path: Path) -> TextIO:
    """Open a log to append to, for its owner only; what the disk has no room for is left out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        raw = _Lenient(path, "a", opener=_private)
    except OSError:
        raw = _Lenient(os.devnull, "a")
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def take_output(log: TextIO) -> None:
    """Send to the log what this process prints from now on, and what its libraries print."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    for output in _OUTPUTS:
        os.dup2(log.fileno(), output)
    sys.stdout = sys.stderr = log


class _Lenient(io.FileIO):
    """A file whose writes succeed, whether or not there is room for them."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
