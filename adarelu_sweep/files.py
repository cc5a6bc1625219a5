"""Files that are written whole or not at all, and read through."""

import errno
import os
from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors that say that a disk is full, or a quota or limit reached: later it may succeed."""

_BLOCK = 2**20  # bytes


def write_atomically(path: Path, *content: bytes | memoryview, before: Path | None = None) -> None:
    """Write a file so that after a kill or a power cut the old or the new content stands there.

    Written aside, flushed to the disk, renamed, and the folder flushed too. A file has one writer
    at a time, so that what a killed one leaves aside is overwritten by the next.

    Args:
        path: The file.
        content: Its bytes, in one piece or in several.
        before: Where the old file is kept, if it is to be kept. Between two renames the old content
            stands there alone.
    """
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            path.replace(before)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_through(path: Path) -> None:
    """Read a whole file and keep nothing of it: the system has it in memory then.

    Raises OSError if the disk cannot read all of it.
    """
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def discard(path: Path) -> None:
    """Remove a file and what a killed writer of it has left aside, as far as they are there."""
    path.unlink(missing_ok=True)
    discard_aside(path)


def discard_aside(path: Path) -> None:
    """Remove what a killed writer of a file has left aside."""
    _aside(path).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")
