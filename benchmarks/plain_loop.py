"""The peer of the benchmarks: a training loop as it is usually written with PyTorch.

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

from adarelu_sweep.datasets.arrays import Arrays


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """The training images of a data set; items are float32 C x 32 x 32 and a label."""

    def __init__(self, arrays: Arrays, images: int) -> None:
        self.images = arrays.x_train[:images]
        self.labels = arrays.y_train[:images].tolist()
        side = arrays.x_train.shape[1]
        pixels = self.images.astype(np.float64) / 255
        axes = (0, 1, 2)
        self.transform = transforms.Compose(
            [
                transforms.Pad(max(0, 32 - side) // 2),
                transforms.ToTensor(),
                transforms.Normalize(pixels.mean(axes).tolist(), pixels.std(axes).tolist()),
            ]
        )

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
