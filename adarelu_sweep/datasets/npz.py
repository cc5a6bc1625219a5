"""Data sets as ``<name>.npz`` files, as numpy's savez and Keras write them."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from adarelu_sweep.datasets.arrays import KEYS, Arrays, DamagedError, check_layout, checked_arrays

FORMAT = (
    "arrays x_train, y_train, x_test, y_test; images uint8, N x H x W or N x H x W x C; "
    "labels integer, N"
)


def peek(path: Path) -> tuple[int, int]:
    """Return the numbers of training and of test images, from the headers alone.

    Raises DamagedError when the headers show that the file cannot be used.
    """
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        return check_layout({key: _header(archive, path, key) for key in KEYS}, _places(path))


def form(path: Path) -> tuple[int, int, int, int]:
    """Return the images' height, width and channels and the number of classes.

    Reads the labels, not the images.

    Raises DamagedError when the file cannot be used.
    """
    peek(path)
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        shape, _ = _header(archive, path, "x_train")
        labels = [_member(archive, key) for key in ("y_train", "y_test")]
    channels = shape[3] if len(shape) == 4 else 1
    return shape[1], shape[2], channels, max(int(each.max()) for each in labels) + 1


def load(path: Path) -> Arrays:
    """Read and check the whole file, or raise DamagedError. Pickled objects are never loaded."""
    peek(path)
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        return checked_arrays({key: _member(archive, key) for key in KEYS}, _places(path))


def save(arrays: Arrays, path: Path) -> None:
    """Write the arrays uncompressed, and return when they are on the disk."""
    with path.open("wb") as file:
        np.savez(
            file,
            x_train=arrays.x_train,
            y_train=arrays.y_train,
            x_test=arrays.x_test,
            y_test=arrays.y_test,
        )
        file.flush()
        os.fsync(file.fileno())


def _places(path: Path) -> dict[str, str]:
    return {key: f"{key} in {path}" for key in KEYS}


def _header(
    archive: zipfile.ZipFile, path: Path, key: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        member = archive.getinfo(f"{key}.npy")
    except KeyError:
        raise DamagedError(f"{path} has no array {key}") from None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DamagedError(f"{key} in {path} is packed in a way that numpy does not write")
    # Deflate packs 1032 to 1 at best: more is not there, and nothing is to be allocated for it.
    if member.file_size > 1032 * min(member.compress_size, path.stat().st_size) + 1032:
        raise DamagedError(f"{path} cannot hold the {member.file_size} bytes of {key}")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        # Before anything is allocated: a damaged shape may ask for more than the memory.
        if (
            not dtype.hasobject and file.tell() + prod(shape) * dtype.itemsize != member.file_size
        ) or min(shape, default=0) < 0:
            raise DamagedError(f"{key} in {path} is not of the size that its header says")
    return shape, dtype


def _member(archive: zipfile.ZipFile, key: str) -> npt.NDArray[Any]:
    with archive.open(f"{key}.npy") as file:
        array: npt.NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    # On damaged bytes zipfile, zlib, lzma and numpy raise a dozen kinds, documented nowhere.
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # the file could not even be opened
        raise DamagedError(f"{path} is not a readable npz file ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 120)
