"""A data set held whole on the training device, where batches are gathered by index."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.shape import LEAST_SIDE
from adarelu_sweep.datasets.sources import limited, read

Split = Literal["train", "val", "test"]
Augment = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes uint8 images (B x C x H x W) and their indices (int64, B); returns images like them."""

SUBSET_SEED = 20260715
CHUNK = 2048  # images at a time, so that the sums need little memory


class ResidentDataset:
    """Both splits on one device, and their batches, normalized there.

    Images smaller than 32 x 32 are padded with zeros around them to 32 x 32 before normalization.
    Each channel is normalized with the mean and the deviation of the training images in use, which
    are those of the images themselves, without the padding (as MNIST's usual 0.1307 and 0.3081
    are). A limit takes a fixed subset of a split, the same in every trial and on every machine.

    Attributes:
        device: where it is held.
        images: for each split, uint8, N x C x H x W; "train" and "test", or after ``hold_out``
            "train" and "val".
        labels: for each split, int64, N.
        num_classes: the largest label of the whole data set, plus 1.
        in_channels: 1 or 3.
        mean: float32, 1 x C x 1 x 1, in units of the uint8 values.
        deviation: the same for the deviation; 1 where a channel is constant.
    """

    def __init__(
        self,
        arrays: Arrays,
        device: torch.device | str,
        train_limit: int | None = None,
        test_limit: int | None = None,
    ) -> None:
        train = subset(len(arrays.y_train), train_limit)
        test = subset(len(arrays.y_test), test_limit)
        self.device = torch.device(device)
        self.num_classes = arrays.num_classes
        self.in_channels = arrays.channels
        images = {
            "train": _on_device(arrays.x_train[train], device),
            "test": _on_device(arrays.x_test[test], device),
        }
        self._pixels = images["train"][0, 0].numel()
        self.images: dict[Split, torch.Tensor] = {
            "train": _padded(images["train"]),
            "test": _padded(images["test"]),
        }
        self.mean, self.deviation = _mean_and_deviation(self.images["train"], self._pixels)
        self.labels: dict[Split, torch.Tensor] = {
            "train": torch.from_numpy(arrays.y_train[train]).to(device),
            "test": torch.from_numpy(arrays.y_test[test]).to(device),
        }

    @classmethod
    def load(
        cls,
        name: str,
        data_dir: Path,
        device: torch.device | str,
        train_limit: int | None = None,
        test_limit: int | None = None,
    ) -> "ResidentDataset":
        """Read a data set, fetching it where it is absent. Raises UserError as ``read`` does."""
        return cls(read(name, data_dir), device, train_limit, test_limit)

    def hold_out(self, validation: torch.Tensor) -> "ResidentDataset":
        """Return a data set whose split "val" is these training images, and which has no "test".

        ``validation`` is int64, on the CPU, the indices of training images. The rest is the new
        "train", in the same order, and mean and deviation are those of the rest: training on it can
        see neither the held out images nor the test set.
        """
        rest = torch.ones(self.size("train"), dtype=torch.bool)
        rest[validation] = False
        parts: dict[Split, torch.Tensor] = {"train": rest.nonzero().flatten(), "val": validation}
        part = copy.copy(self)
        part.images, part.labels = {}, {}
        for split, indices in parts.items():
            part.images[split] = self.images["train"][indices.to(self.device)]
            part.labels[split] = self.labels["train"][indices.to(self.device)]
        part.mean, part.deviation = _mean_and_deviation(part.images["train"], self._pixels)
        return part

    def size(self, split: Split) -> int:
        """Return the number of images of a split that are in use."""
        return len(self.labels[split])

    def batch(
        self,
        split: Split,
        indices: torch.Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
        augment: Augment | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and labels at these indices, without waiting for the device.

        ``indices`` is int64, B, on the device. The images are normalized float32, B x C x H x W in
        the memory format asked for; the labels are int64, B. ``augment`` changes the images before
        normalization.
        """
        raw = self.images[split][indices]
        if augment is not None:
            raw = augment(raw, indices)
        images = raw.to(torch.float32, memory_format=memory_format)
        return images.sub_(self.mean).div_(self.deviation), self.labels[split][indices]


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


def _on_device(images: npt.NDArray[np.uint8], device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()


def _padded(images: torch.Tensor) -> torch.Tensor:
    rows, columns = (max(LEAST_SIDE - side, 0) for side in images.shape[2:])
    if not rows and not columns:
        return images
    return pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _mean_and_deviation(images: torch.Tensor, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both for each channel, from integer sums, so that every device gives the same.

    ``pixels`` of every image and channel are its own; what pads it is 0 and adds nothing.
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

    def tensor(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)

    return tensor(means), tensor([variance**0.5 or 1.0 for variance in variances])
