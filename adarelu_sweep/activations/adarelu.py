"""AdaReLU: the rectifier that keeps whichever sign is rarer in the layer's mini-batch."""

from typing import Literal

import torch
from torch import Tensor, nn

from adarelu_sweep.activations.rectifier import count_signs, count_signs_of_samples, rectify

EvalMode = Literal["batch", "running"]

RUNNING_MOMENTUM = 0.1  # of the newest batch, as in torch's batch norm


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
    _refuse_other_dtypes(x)
    return rectify(x, count_signs(x))


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
        _refuse_other_dtypes(x)
        if self.training:
            votes = count_signs(x)
            if self.recorded is not None:
                self.recorded.append((votes.sum(), x.numel()))
            if self.eval_mode == "running":
                self._follow(votes.sum(), x.numel())
            return rectify(x, votes)
        if self.eval_mode == "running":
            return rectify(x, self.running_balance > 0)
        if self.vote_per_sample and x.dim() > 0:
            return rectify(x, count_signs_of_samples(x) > 0)
        return adarelu(x)

    @torch.no_grad()
    def _follow(self, balance: Tensor, elements: int) -> None:
        share = (balance / max(elements, 1)).to(self.running_balance.dtype)
        self.running_balance.lerp_(share, RUNNING_MOMENTUM)

    def extra_repr(self) -> str:
        """Show the evaluation mode where it is not the default."""
        return "" if self.eval_mode == "batch" else f"eval_mode={self.eval_mode!r}"


def _refuse_other_dtypes(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"adarelu needs a floating-point tensor, not {x.dtype}")
