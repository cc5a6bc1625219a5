"""A data set held whole on the training device, where batches are gathered by index."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from adarelu_sweep.datasets import prepared
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.tensors import Tensors, mean_and_deviation

Split = Literal["train", "val", "test"]
Augment = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes uint8 images (B x C x H x W) and their indices (int64, B); returns images like them."""


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
        data: Arrays | Tensors,
        device: torch.device | str,
        train_limit: int | None = None,
        test_limit: int | None = None,
    ) -> None:
        whole = data if isinstance(data, Tensors) else Tensors.of(data)
        used = whole.limited(train_limit, test_limit)
        self.device = torch.device(device)
        self.num_classes = whole.num_classes
        self.in_channels = whole.x_train.shape[1]
        self._pixels = int(whole.pixels)
        self.images: dict[Split, torch.Tensor] = {
            "train": used.x_train.to(device),
            "test": used.x_test.to(device),
        }
        self.labels: dict[Split, torch.Tensor] = {
            "train": used.y_train.to(device),
            "test": used.y_test.to(device),
        }
        self.mean, self.deviation = used.mean.to(device), used.deviation.to(device)

    @classmethod
    def load(
        cls,
        name: str,
        data_dir: Path,
        device: torch.device | str,
        train_limit: int | None = None,
        test_limit: int | None = None,
    ) -> "ResidentDataset":
        """Load a data set, fetching it where it is absent. Raises UserError as ``read`` does.

        On the CPU, splits that are used whole are shared with the other processes of the host.
        """
        return cls(prepared.load(name, data_dir), device, train_limit, test_limit)

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
        part.mean, part.deviation = mean_and_deviation(part.images["train"], self._pixels)
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
