"""The layout that batches are gathered from, as numpy arrays: it is made without torch.

So a process that prepares a data set is done by the time that the workers have imported torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.shape import LEAST_SIDE

CHUNK = 256  # images at a time, so that the sums need little memory, and leave little behind


@dataclass(frozen=True)
class Layout:
    """What ``tensors.Tensors`` holds, field by field, in the order in which a file has it."""

    y_train: npt.NDArray[np.int64]
    y_test: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    x_train: npt.NDArray[np.uint8]
    x_test: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, arrays: Arrays) -> "Layout":
        """Lay a data set out."""
        pixels = arrays.x_train[0, :, :, 0].size
        x_train = _laid_out(arrays.x_train)
        sums, squares = _sums(x_train)
        means, deviations = moments(sums, squares, len(x_train) * pixels)
        return cls(
            arrays.y_train,
            arrays.y_test,
            np.array(pixels, np.int64),
            np.array(means, np.float32).reshape(1, -1, 1, 1),
            np.array(deviations, np.float32).reshape(1, -1, 1, 1),
            x_train,
            _laid_out(arrays.x_test),
        )


def moments(
    sums: Sequence[int], squares: Sequence[int], count: int
) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each channel, the latter 1 where it is constant."""
    pairs = list(zip(sums, squares, strict=True))
    variances = [(count * square - total * total) / count**2 for total, square in pairs]
    return [total / count for total in sums], [variance**0.5 or 1.0 for variance in variances]


def _sums(images: npt.NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Return the sums of each channel's values and of their squares."""
    sums = np.zeros(images.shape[1], np.int64)
    squares = np.zeros_like(sums)
    for start in range(0, len(images), CHUNK):
        values = images[start : start + CHUNK].astype(np.int32)
        sums += values.sum((0, 2, 3), dtype=np.int64)
        squares += np.square(values, out=values).sum((0, 2, 3), dtype=np.int64)
    return sums.tolist(), squares.tolist()


def _laid_out(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bring uint8 N x H x W x C into N x C x H x W, both sides at least 32, zeros around."""
    laid_out = images.transpose(0, 3, 1, 2)
    lacking = [max(LEAST_SIDE - side, 0) for side in laid_out.shape[2:]]
    if any(lacking):
        around = [(each // 2, each - each // 2) for each in lacking]
        return np.pad(laid_out, [(0, 0), (0, 0), *around])
    return np.ascontiguousarray(laid_out)
