"""Data sets on their way from the disk while workers still import what they need."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from adarelu_sweep.datasets.catalog import check, prepared_file
from adarelu_sweep.files import read_through


def read_ahead(names: Iterable[str], folder: Path) -> None:
    """Begin to read data sets of a folder, so that the system has them in memory.

    Nobody waits for that, and nothing depends on it: a file that cannot be read is told of by who
    needs it. It takes the disk and hardly any of the processor, which is busy with imports.
    """
    files = [file for name in names for file in _files(name, folder)]
    Thread(target=_read, args=(files,), name="read-ahead", daemon=True).start()


def _files(name: str, folder: Path) -> list[Path]:
    """Return what is opened of a data set: its files only where none is prepared."""
    place = prepared_file(name, folder)
    return [place] if place.exists() else check(name, folder).files


def _read(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            read_through(file)
