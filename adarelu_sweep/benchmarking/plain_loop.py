"""The peer: a training loop as it is usually written with PyTorch.

Images through PIL and torchvision's transforms, a DataLoader with worker processes, eager steps,
``loss.item()`` after each. The network is the same one that the package trains.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from adarelu_sweep.components import Component
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.shape import LEAST_SIDE


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """The training images of a data set; items are float32 C x H x W and a label.

    Args:
        arrays: The data set.
        augmentation: A component of ``AUGMENTATIONS``.
    """

    def __init__(self, arrays: Arrays, augmentation: Component) -> None:
        self.images = arrays.x_train
        self.labels = arrays.y_train.tolist()
        height, width = self.images.shape[1:3]
        sides = [max(LEAST_SIDE, height), max(LEAST_SIDE, width)]
        pixels = self.images.astype(np.float64) / 255
        axes = (0, 1, 2)
        steps = [
            transforms.Pad(((sides[1] - width) // 2, (sides[0] - height) // 2)),
            transforms.ToTensor(),
            transforms.Normalize(pixels.mean(axes).tolist(), pixels.std(axes).tolist()),
        ]
        if augmentation.name == "crop_flip":
            padding, flip = augmentation.arguments["padding"], augmentation.arguments["flip"]
            mirror = [transforms.RandomHorizontalFlip()] if flip else []
            steps[1:1] = [transforms.RandomCrop(sides, padding), *mirror]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image and its label."""
        pixels = self.images[index]
        image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0])
        return self.transform(image), self.labels[index]


def train_epoch(
    network: nn.Module,
    loader: DataLoader[tuple[torch.Tensor, int]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    bf16: bool = False,
) -> Iterator[float]:
    """Train one epoch, yielding the loss of every step."""
    criterion = nn.CrossEntropyLoss()
    network.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        with _autocast(device, bf16):
            loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        yield loss.item()


def _autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
