"""A data set in the layout that batches are gathered from, the same for all who hold it."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.catalog import limited
from adarelu_sweep.datasets.shape import LEAST_SIDE

SUBSET_SEED = 20260715
CHUNK = 256  # images at a time, so that the sums need little memory, and leave little behind


@dataclass(frozen=True)
class Tensors:
    """Both splits, on the CPU. What is here may be mapped from a file: it is not written to.

    Images smaller than 32 x 32 are padded with zeros around them to 32 x 32.
    """

    y_train: Tensor
    """int64, N."""
    y_test: Tensor
    pixels: Tensor
    """int64, without dimensions: how many each channel of an image has, without the padding."""
    mean: Tensor
    """float32, 1 x C x 1 x 1: of the training images without the padding, for each channel."""
    deviation: Tensor
    """The same for the deviation; 1 where a channel is constant."""
    x_train: Tensor
    """uint8, N x C x H x W with C 1 or 3, contiguous."""
    x_test: Tensor

    @classmethod
    def of(cls, arrays: Arrays) -> "Tensors":
        """Lay a data set out."""
        pixels = arrays.x_train[0, :, :, 0].size
        x_train = _laid_out(arrays.x_train)
        return cls(
            torch.from_numpy(arrays.y_train),
            torch.from_numpy(arrays.y_test),
            torch.tensor(pixels),
            *mean_and_deviation(x_train, pixels),
            x_train,
            _laid_out(arrays.x_test),
        )

    @property
    def num_classes(self) -> int:
        """The largest label of both splits, plus 1."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def limited(self, train_limit: int | None, test_limit: int | None) -> "Tensors":
        """Return fixed subsets of the splits, copied; a split that is used whole is not copied."""
        train = subset(len(self.y_train), train_limit)
        test = subset(len(self.y_test), test_limit)
        x_train, mean, deviation = self.x_train[train], self.mean, self.deviation
        if len(x_train) < len(self.x_train):
            mean, deviation = mean_and_deviation(x_train, int(self.pixels))
        return replace(
            self,
            y_train=self.y_train[train],
            y_test=self.y_test[test],
            mean=mean,
            deviation=deviation,
            x_train=x_train,
            x_test=self.x_test[test],
        )


def subset(size: int, limit: int | None) -> npt.NDArray[np.int64] | slice:
    """Return the indices of the fixed subset: all in order, or the first of one permutation.

    The permutation orders PCG64's raw stream: numpy promises that this stream stays the same, and
    of ``Generator.permutation`` it does not.
    """
    count = limited(size, limit)
    if count == size:
        return slice(None)
    raw = np.random.PCG64(SUBSET_SEED).random_raw(size)
    return np.argsort(raw, kind="stable")[:count]


def mean_and_deviation(images: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Return both for each channel, from integer sums, so that every device gives the same.

    ``images`` are uint8, N x C x H x W; what is returned is float32, 1 x C x 1 x 1, on their
    device. ``pixels`` of every image and channel are its own; what pads it is 0 and adds nothing.
    """
    channels = images.shape[1]
    sums = torch.zeros(channels, dtype=torch.int64, device=images.device)
    squares = torch.zeros_like(sums)
    for chunk in torch.split(images, CHUNK):
        values = chunk.to(torch.int32)
        sums += values.sum((0, 2, 3), dtype=torch.int64)
        squares += values.square_().sum((0, 2, 3), dtype=torch.int64)
    count = len(images) * pixels
    pairs = list(zip(sums.tolist(), squares.tolist(), strict=True))
    means = [total / count for total, _ in pairs]
    variances = [(count * square - total * total) / count**2 for total, square in pairs]

    def tensor(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)

    return tensor(means), tensor([variance**0.5 or 1.0 for variance in variances])


def _laid_out(images: npt.NDArray[np.uint8]) -> Tensor:
    """Bring uint8 N x H x W x C into N x C x H x W, both sides at least 32."""
    laid_out = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    rows, columns = (max(LEAST_SIDE - side, 0) for side in laid_out.shape[2:])
    if rows or columns:
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        # Images of one pixel pass for channels last, and padding keeps what it takes them for.
        laid_out = pad(laid_out, sides).contiguous()
    return laid_out
