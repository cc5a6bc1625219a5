"""ResNet-18 for 32 x 32 images."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

_STAGES = [(64, 1), (128, 2), (256, 2), (512, 2)]  # channels, stride of the first block
_BLOCKS_PER_STAGE = 2


class ResNet(nn.Module):
    """The ResNet-18 of He et al. (2016) with a stem for small images.

    The stem is a 3 x 3 convolution of stride 1 without pooling, where the original has a 7 x 7
    one of stride 2 with pooling.

    Module names: ``stem.conv``, ``stem.norm``, ``stem.act``, then ``blocks.I`` for I from 0 to 7
    with the names of :class:`BasicBlock`, and ``head``.

    Takes batch x in_channels x height x width and returns batch x num_classes logits.
    """

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        in_channels: int,
        num_classes: int,
        width: float,
    ) -> None:
        super().__init__()
        channels = _scaled(_STAGES[0][0], width)
        stem = OrderedDict[str, nn.Module]()
        stem["conv"] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        stem["norm"] = nn.BatchNorm2d(channels)
        stem["act"] = activation()
        self.stem = nn.Sequential(stem)
        self.blocks = nn.Sequential()
        for full_channels, stage_stride in _STAGES:
            for index in range(_BLOCKS_PER_STAGE):
                inputs, channels = channels, _scaled(full_channels, width)
                stride = stage_stride if index == 0 else 1
                self.blocks.append(BasicBlock(activation, inputs, channels, stride))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the images."""
        logits: Tensor = self.head(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to the input.

    Where the shape changes, the input passes a 1 x 1 convolution with batch norm, ``shortcut``.
    Module names: ``conv1``, ``norm1``, ``act1``, ``conv2``, ``norm2``, ``act2``, and
    ``shortcut.conv``, ``shortcut.norm``; ``act2`` takes the sum.
    """

    def __init__(
        self, activation: Callable[[], nn.Module], inputs: int, outputs: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = activation()
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, bias=False))
            self.shortcut.add_module("norm", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, batch x outputs x height / stride x width / stride."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        # Taking every second pixel first is what a 1 x 1 convolution of stride 2 does. oneDNN's own
        # (3.13, AVX-512) writes past its memory where a batch of odd size has under 16 channels.
        strided = x[:, :, :: self.stride, :: self.stride]
        output: Tensor = self.act2(y + self.shortcut(strided))
        return output


def resnet18(
    activation: Callable[[], nn.Module], in_channels: int, num_classes: int, width: float = 1.0
) -> nn.Module:
    """Build :class:`ResNet`; ``width`` multiplies the channels of every layer.

    ``activation`` is called once for every place, so that no two layers share a module.
    """
    return ResNet(activation, in_channels, num_classes, width)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
