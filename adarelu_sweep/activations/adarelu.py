"""AdaReLU: the rectifier that keeps whichever sign is rarer in the layer's mini-batch."""

from typing import Any, cast

import torch
from torch import Tensor, nn

_INFINITY = float("inf")


def adarelu(x: Tensor) -> Tensor:
    """Return min(x, 0) where x has more positive than negative elements, otherwise max(x, 0).

    Eq. (3) of Do Trung Dung, "Adaptive Rectified Linear Unit for Deep Neural Network
    Architecture", 2026, doi 10.61591/jslhu.26.1075. All elements of ``x`` vote together: ``x`` is
    one layer's pre-activations for a mini-batch, usually batch x channels x height x width. A tie
    gives max(x, 0). Zeros and NaN have no vote; NaN stays NaN.

    ``x`` is a floating-point tensor of any shape, also empty or 0-dim; the output has its shape,
    dtype, device and memory format. The counts are exact integers, and they stay on the device.
    The gradient is the incoming one where the output is not 0 (NaN included), and exactly 0
    elsewhere; the vote itself has none. Only the output is kept for the backward pass. Under
    ``torch.func.vmap`` each mapped example votes alone.

    Raises TypeError for a tensor that is not floating-point.
    """
    if not x.is_floating_point():
        raise TypeError(f"adarelu needs a floating-point tensor, not {x.dtype}")
    return cast(Tensor, _AdaReLU.apply(x))


class AdaReLU(nn.Module):
    """:func:`adarelu` as a module, without arguments, parameters or state.

    The output for one image depends on the others in the batch, in training and in evaluation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``adarelu(x)``."""
        return adarelu(x)


class _AdaReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        # Positives minus negatives: the signs are added up in int64, so no rounding at any size.
        keep_negative = x.sign().to(torch.int8).sum(dtype=torch.int64) > 0
        # Bounds (-inf, 0) or (0, inf) choose the branch without asking the device for the vote.
        low = torch.where(keep_negative, -_INFINITY, 0.0).to(x.dtype)
        high = torch.where(keep_negative, 0.0, _INFINITY).to(x.dtype)
        # Several times faster than torch.clamp with tensor bounds on a CPU.
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # Selects rather than multiplies, so that inf and NaN in grad do not leak through zeros.
        return cast(Tensor, torch.ops.aten.threshold_backward(grad, output.abs(), 0))
