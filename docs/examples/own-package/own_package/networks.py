"""A network that takes its activation from outside."""

from collections.abc import Callable

from torch import nn


def small_cnn(
    activation: Callable[[], nn.Module], in_channels: int, num_classes: int, channels: int = 16
) -> nn.Module:
    """Build three convolutions of stride 2 and a linear layer.

    Takes batch x in_channels x height x width and returns batch x num_classes logits.
    """
    layers: list[nn.Module] = []
    for inputs in (in_channels, channels, channels):
        layers += [
            nn.Conv2d(inputs, channels, 3, stride=2, padding=1),
            nn.GroupNorm(1, channels),
            activation(),  # a module of its own for every place
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
