"""Where a process prints to: what nobody can read must not end a night's training."""

import io
import sys
from typing import Any, TextIO


class LenientFile(io.FileIO):
    """A file whose writes succeed, whether or not there is room for them, or a terminal left."""

    def write(self, data: Any) -> int:
        """Write what can be written; return the number of all bytes."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def lenient_text(raw: LenientFile, encoding: str = "utf-8") -> TextIO:
    """Return a stream of text, written line by line."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def print_leniently() -> None:
    """Let standard error be one that never fails: its terminal may be closed, its disk be full."""
    try:
        raw = LenientFile(sys.stderr.fileno(), "w", closefd=False)
    except (OSError, ValueError, AttributeError):  # there is none, or it is no file
        return
    sys.stderr = lenient_text(raw, sys.stderr.encoding)
