"""ConvReLU: the rectifier with a threshold, as the AdaReLU paper describes it."""

from torch import Tensor, nn


class ConvReLU(nn.Module):
    """max(x, theta) for a floating-point tensor of any shape; NaN stays NaN.

    This is ConvReLU as Do Trung Dung describes it ("Adaptive Rectified Linear Unit for Deep Neural
    Network Architecture", 2026, doi 10.61591/jslhu.26.1075), with a fixed ``theta``. Gao, Cai and
    Ji ("Adaptive Convolutional ReLUs", AAAI 2020), whom that paper cites for it, fuse theirs into
    the next convolution; this module does not do that.
    """

    def __init__(self, theta: float = 0.0) -> None:
        super().__init__()
        self.theta = theta

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, theta), in the shape, dtype and memory format of ``x``."""
        return x.clamp_min(self.theta)

    def extra_repr(self) -> str:
        """Show the threshold."""
        return f"theta={self.theta}"
