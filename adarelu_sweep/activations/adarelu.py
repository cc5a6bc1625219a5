"""AdaReLU: the rectifier that keeps whichever sign is rarer in the layer's mini-batch."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

EvalMode = Literal["batch", "running"]

RUNNING_MOMENTUM = 0.1  # of the newest batch, as in torch's batch norm

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
    return _rectify(x, _balance(x) > 0)


class AdaReLU(nn.Module):
    """:func:`adarelu` as a module, without parameters.

    Args:
        eval_mode: What decides in evaluation (in training the mini-batch always does).
            ``"batch"``: eq. (3) on the batch at hand, so that the output for one image depends on
            the others; the module then has no state. ``"running"``: the sign of the buffer
            ``running_balance`` (float32, 0-dim), which follows (positives - negatives) / N of the
            training batches with momentum 0.1, as batch norm's statistics do; the output for an
            image then depends on that image alone.

    Attributes:
        batch_dependent: whether, in evaluation, the output for an image depends on its batch.
        vote_per_sample: let every sample of a batch vote alone in evaluation, which gives in one
            pass what batches of one image give.
        recorded: None, or a list to which every training batch appends its balance (positives
            minus negatives, int64, 0-dim, on the device) and its number of elements.

    Raises ValueError for another ``eval_mode``, and as :func:`adarelu` does in ``forward``.
    """

    running_balance: Tensor

    def __init__(self, eval_mode: EvalMode = "batch") -> None:
        super().__init__()
        if eval_mode not in ("batch", "running"):
            raise ValueError(f"eval_mode is {eval_mode!r}: give 'batch' or 'running'")
        self.eval_mode = eval_mode
        self.vote_per_sample = False
        self.recorded: list[tuple[Tensor, int]] | None = None
        if eval_mode == "running":
            self.register_buffer("running_balance", torch.zeros(()))

    @property
    def batch_dependent(self) -> bool:
        """Whether, in evaluation, the output for an image depends on its batch."""
        return self.eval_mode == "batch"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``adarelu(x)``, or in evaluation what ``eval_mode`` says, in the shape of x."""
        if self.training:
            balance = _balance(x)
            if self.recorded is not None:
                self.recorded.append((balance, x.numel()))
            if self.eval_mode == "running":
                self._follow(balance, x.numel())
            return _rectify(x, balance > 0)
        if self.eval_mode == "running":
            _refuse_other_dtypes(x)
            return _rectify(x, self.running_balance > 0)
        if self.vote_per_sample and x.dim() > 0:
            return _rectify(x, _balance(x, per_sample=True) > 0)
        return adarelu(x)

    @torch.no_grad()
    def _follow(self, balance: Tensor, elements: int) -> None:
        share = (balance / max(elements, 1)).to(self.running_balance.dtype)
        self.running_balance.lerp_(share, RUNNING_MOMENTUM)

    def extra_repr(self) -> str:
        """Show the evaluation mode where it is not the default."""
        return "" if self.eval_mode == "batch" else f"eval_mode={self.eval_mode!r}"


def _balance(x: Tensor, per_sample: bool = False) -> Tensor:
    """Return positives minus negatives as int64: 0-dim, or one per sample, shaped to broadcast."""
    _refuse_other_dtypes(x)
    # The signs are added up in int64, so there is no rounding at any size.
    signs = x.detach().sign().to(torch.int8)
    if not per_sample:
        return signs.sum(dtype=torch.int64)
    others = tuple(range(1, x.dim()))
    return signs.sum(others, keepdim=True, dtype=torch.int64) if others else signs.to(torch.int64)


def _refuse_other_dtypes(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"adarelu needs a floating-point tensor, not {x.dtype}")


def _rectify(x: Tensor, keep_negative: Tensor) -> Tensor:
    """Return min(x, 0) where the bool tensor ``keep_negative`` is true, max(x, 0) elsewhere."""
    return cast(Tensor, _Rectify.apply(x, keep_negative))


class _Rectify(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, keep_negative: Tensor) -> Tensor:
        # Bounds (-inf, 0) or (0, inf) choose the branch without asking the device for the vote.
        low = torch.where(keep_negative, -_INFINITY, 0.0).to(x.dtype)
        high = torch.where(keep_negative, 0.0, _INFINITY).to(x.dtype)
        # Several times faster than torch.clamp with tensor bounds on a CPU.
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        # Selects rather than multiplies, so that inf and NaN in grad do not leak through zeros.
        return cast(Tensor, torch.ops.aten.threshold_backward(grad, output.abs(), 0)), None
