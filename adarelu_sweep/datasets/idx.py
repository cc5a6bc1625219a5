"""Data sets as the four idx files of MNIST, plain or gzipped, under torchvision's names."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adarelu_sweep.datasets.arrays import Arrays, DamagedError, check_layout, checked_arrays

NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_UINT8 = np.dtype(np.uint8)


def find(folder: Path) -> dict[str, Path] | None:
    """Return the four files, plain before ``.gz``, or None when one of them is not there."""
    files = {}
    for key, name in NAMES.items():
        both = (folder / name, folder / f"{name}.gz")
        there = next((path for path in both if path.exists()), None)
        if there is None:
            return None
        files[key] = there
    return files


def peek(files: dict[str, Path]) -> tuple[int, int]:
    """Return the numbers of training and of test images, from headers and sizes alone.

    Raises DamagedError when they show that a file cannot be used.
    """
    return check_layout(
        {key: (_shape(key, path), _UINT8) for key, path in files.items()}, _places(files)
    )


def load(files: dict[str, Path]) -> Arrays:
    """Read and check the four files, or raise DamagedError."""
    return checked_arrays({key: _array(key, path) for key, path in files.items()}, _places(files))


def _places(files: dict[str, Path]) -> dict[str, str]:
    return {key: str(path) for key, path in files.items()}


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedError(f"{path} is not a complete gzip file ({error})") from None


def _shape(key: str, path: Path) -> tuple[int, ...]:
    """Read the header, and hold it against the size of the file."""
    dimensions = 3 if key.startswith("x") else 1
    length = 4 + 4 * dimensions
    with _opened(path) as file:
        header = file.read(length)
    if len(header) < length or header[:4] != bytes((0, 0, 8, dimensions)):
        raise DamagedError(f"{path} is not an idx file of bytes in {dimensions} dimension(s)")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    size, expected = path.stat().st_size, length + prod(shape)
    if path.suffix == ".gz":
        # Deflate packs 1032 to 1 at best: more is a damaged header, and not to be allocated.
        if expected > 1032 * size:
            raise DamagedError(f"{path} cannot hold the {expected} bytes that its header asks for")
        with path.open("rb") as packed:  # ends with the unpacked size, modulo 2 ** 32
            packed.seek(-4, 2)
            size = int.from_bytes(packed.read(4), "little")
        expected %= 2**32
    if size != expected:
        raise DamagedError(f"{path} holds {size} bytes; its header asks for {expected}")
    return shape


def _array(key: str, path: Path) -> npt.NDArray[Any]:
    shape = _shape(key, path)
    with _opened(path) as file:
        file.read(4 + 4 * len(shape))
        data = file.read(prod(shape) + 1)  # the byte beyond makes gzip check its sum
    if len(data) != prod(shape):
        raise DamagedError(f"{path} is not of the size that its header says")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
