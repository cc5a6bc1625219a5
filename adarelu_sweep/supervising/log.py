"""The supervisor's log: a file that is always written, and that never stands in a sweep's way."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from adarelu_sweep.outputs import LenientFile, lenient_text

_OUTPUTS = (1, 2)


def open_log(path: Path) -> TextIO:
    """Open a log to append to, for its owner only; what the disk has no room for is left out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        raw = LenientFile(path, "a", opener=_private)
    except OSError:
        raw = LenientFile(os.devnull, "a")
    return lenient_text(raw)


def take_output(log: TextIO) -> None:
    """Send to the log what this process prints from now on, and what its libraries print."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    for output in _OUTPUTS:
        os.dup2(log.fileno(), output)
    sys.stdout = sys.stderr = log


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
