"""Activations and networks of a user's own, sound ones and broken ones, for several tests."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Drawing(nn.Module):
    """Holds layers that the networks have too, and draws random numbers when it is built."""

    def __init__(self, numbers: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(2, 1)
        self.noise = nn.Parameter(torch.randn(numbers))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, *x.shape[2:])
        shift = self.noise.mean() + self.linear.weight.mean() + self.linear.bias
        return torch.relu(x + self.norm(self.conv(flat)).reshape_as(x)) + shift


class Centred(nn.Module):
    """The output for an image depends on its batch, and no sample can be asked alone."""

    batch_dependent = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - x.mean())


class Normed(nn.Module):
    """A network with parameters that the initialization does not know, and with shared parts."""

    def __init__(
        self, activation: Activation, in_channels: int, num_classes: int, width: int = 4
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width, 1, 1))
        self.conv = nn.Conv2d(in_channels, width, 8, stride=8)
        self.act = activation()
        self.norm = nn.LayerNorm([width, 4, 4])
        nn.init.normal_(self.norm.weight)
        self.first = nn.Linear(16 * width, 16)
        self.also_act = self.act
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight if width == 1 else self.second.weight
        self.head = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.act(self.conv(images) * self.scale)).flatten(1)
        x = self.also_act(self.first(x)[:, None, None]).flatten(1)
        logits: Tensor = self.head(self.second(x))
        return logits


# Broken ones


class Prints(nn.ReLU):
    def __init__(self) -> None:
        super().__init__()
        print("Building a rectifier")


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


class Divides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 // 0)


class OnlyTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise NotImplementedError("no evaluation")
        return torch.relu(x)


class Numpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(np.random.default_rng().random()))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


def leaves() -> nn.Module:
    raise SystemExit(3)


def no_module() -> float:
    return math.pi


def too_wide(activation: Activation, in_channels: int, num_classes: int) -> nn.Module:
    layers = (nn.Flatten(), activation(), nn.LazyLinear(num_classes + 1))
    network = nn.Sequential(*layers)
    network(torch.zeros(1, in_channels, 32, 32))
    return network


class Pair(nn.Linear):
    def __init__(self, activation: Activation, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels * 1024, num_classes)
        self.act = activation()

    def forward(self, images: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(self.act(images.flatten(1))), None


def looks_at_the_activation(
    activation: Activation, in_channels: int, num_classes: int
) -> nn.Module:
    act = activation()
    linear = nn.Linear(in_channels * 1024, num_classes)
    norm = nn.LayerNorm(num_classes)
    nn.init.constant_(norm.weight, 1.0 if isinstance(act, nn.ReLU) else 2.0)
    return nn.Sequential(nn.Flatten(), act, linear, norm)


def waits(activation: Activation, in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), activation(), Waiting(), nn.Linear(in_channels * 1024, num_classes)
    )


class Waiting(nn.Module):
    """Wants to know on the host what is computed on the device, so that it cannot be captured."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.detach().abs().amax() >= 0)


class Noisy(nn.Module):
    """Draws from torch's global generator in every training step."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x.relu(), 0.2, self.training)
