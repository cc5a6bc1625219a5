"""Changing training images at random, on the device, with draws that the seed alone decides."""

from collections.abc import Callable
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adarelu_sweep.components import Component
from adarelu_sweep.training.registry import AUGMENTATIONS
from adarelu_sweep.training.streams import digest, generator


class Augmentation(Protocol):
    """How one epoch changes its images."""

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Change uint8 images, B x C x H x W, whose indices in the split are int64, B."""

    def digest(self) -> str:
        """Return 16 hex digits that tell whether two trials drew the same."""

    def take(self, drawn: Self) -> None:
        """Take what another epoch drew, into the tensors that captured work reads."""


def augmentation(
    component: Component, seed: int, epoch: int, images: int, device: torch.device
) -> Augmentation | None:
    """Return how an epoch changes its images; None where it leaves them as they are.

    The draws belong to the images, not to the batches: an image is changed alike whatever the
    order and size of the batches. They come from a stream of their own for every seed and epoch.
    """
    make: Callable[..., Augmentation | None] = AUGMENTATIONS.load(component)
    return make(generator(seed, "augmentation", epoch), images, device, **component.arguments)


def none(draws: torch.Generator, images: int, device: torch.device) -> None:
    """Leave the images as they are, and draw nothing."""


class CropFlip(Augmentation):
    """Shift every image by up to ``padding`` pixels each way, and mirror half of the images.

    What a shift brings in from beyond the border is 0 (black), as in the recipe of He et al.
    (2016, section 4.2) for CIFAR: pad by 4, crop at random, flip horizontally.

    Attributes:
        rows, columns: the corner of the crop in the padded image, int64, one per image.
        mirrored: bool, one per image.
    """

    def __init__(
        self,
        draws: torch.Generator,
        images: int,
        device: torch.device,
        padding: int,
        flip: bool,
    ) -> None:
        self.padding = padding
        corners = torch.randint(0, 2 * padding + 1, (2, images), generator=draws)
        self.rows, self.columns = corners.to(device)
        self.mirrored = (torch.rand(images, generator=draws) < (0.5 if flip else 0.0)).to(device)

    def digest(self) -> str:  # noqa: D102
        return digest(self.rows, self.columns, self.mirrored)

    def take(self, drawn: Self) -> None:  # noqa: D102
        self.rows.copy_(drawn.rows)
        self.columns.copy_(drawn.columns)
        self.mirrored.copy_(drawn.mirrored)

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:  # noqa: D102
        _, channels, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4)
        rows = self.rows[indices, None] + torch.arange(height, device=images.device)
        columns = self.columns[indices, None] + torch.arange(width, device=images.device)
        columns = torch.where(self.mirrored[indices, None], columns.flip(1), columns)
        sample = torch.arange(len(images), device=images.device)
        channel = torch.arange(channels, device=images.device)
        changed: Tensor = padded[
            sample[:, None, None, None],
            channel[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
        return changed
