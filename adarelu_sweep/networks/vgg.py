"""VGG-16 for 32 x 32 images, with and without batch norm."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

_STAGES = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]  # channels, convolutions


class VGG(nn.Module):
    """The convolutions of configuration D of Simonyan and Zisserman (2015) and one linear layer.

    The five stages of 3 x 3 convolutions each end with 2 x 2 max pooling; their output is averaged
    over the image. The original has three fully connected layers instead.

    Module names: ``features.I.conv``, ``.norm`` (with batch norm) and ``.act`` for each
    convolution, ``features.I`` for each pooling, ``head``; I counts both from 0.

    Takes batch x in_channels x height x width, height and width at least 32, and returns
    batch x num_classes logits.
    """

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        in_channels: int,
        num_classes: int,
        width: float,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = in_channels
        for full_channels, depth in _STAGES:
            for _ in range(depth):
                inputs, channels = channels, max(1, round(full_channels * width))
                self.features.append(_convolution(activation, inputs, channels, batch_norm))
            self.features.append(nn.MaxPool2d(2))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the images."""
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


def _convolution(
    activation: Callable[[], nn.Module], inputs: int, outputs: int, batch_norm: bool
) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    layers["conv"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
    if batch_norm:
        layers["norm"] = nn.BatchNorm2d(outputs)
    layers["act"] = activation()
    return nn.Sequential(layers)


def vgg16(
    activation: Callable[[], nn.Module], in_channels: int, num_classes: int, width: float = 1.0
) -> nn.Module:
    """Build :class:`VGG` without batch norm; ``width`` multiplies the channels of every layer.

    ``activation`` is called once for every place, so that no two layers share a module.
    """
    return VGG(activation, in_channels, num_classes, width, batch_norm=False)


def vgg16_bn(
    activation: Callable[[], nn.Module], in_channels: int, num_classes: int, width: float = 1.0
) -> nn.Module:
    """Build :class:`VGG` with batch norm; the arguments are those of :func:`vgg16`."""
    return VGG(activation, in_channels, num_classes, width, batch_norm=True)
