"""What AdaReLU computes: a count, the branch that it chooses, and the gradient of that branch.

The plain path says it in PyTorch's operations, for any device, transformation or compiler. Where a
tensor has its values at hand and nothing traces what is done to it, a faster path gives the same
bits: ``blocks`` counts on the CPU, ``kernels`` count and rectify on CUDA. It is chosen here.
"""

import warnings
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from adarelu_sweep.activations import blocks

_INFINITY = float("inf")


def count_signs(x: Tensor) -> Tensor:
    """Return integers whose sum is the number of positive minus that of negative elements.

    One int64, 0-dim; or, from the kernels, several int32. They are on the device of ``x``, which is
    a floating-point tensor of any shape, and have no gradient. Zeros and NaN count as nothing.
    """
    x = x.detach()
    if _has_values(x) and _is_dense(x):
        if x.device.type == "cpu":
            return blocks.count(x)
        if x.is_cuda and x.numel() and (kernels := _kernels(x.device, x.dtype)):
            return cast(Tensor, kernels.count(x))
    return _signs(x).sum(dtype=torch.int64)


def count_signs_of_samples(x: Tensor) -> Tensor:
    """Return positives minus negatives of every x[i], int64, shaped to broadcast over x."""
    signs = _signs(x.detach())
    others = tuple(range(1, x.dim()))
    return signs.sum(others, keepdim=True, dtype=torch.int64) if others else signs.to(torch.int64)


def _signs(x: Tensor) -> Tensor:
    return x.sign().to(torch.int8)  # to be added in int64, without rounding at any size


def rectify(x: Tensor, votes: Tensor) -> Tensor:
    """Return min(x, 0) where the votes are for it, max(x, 0) elsewhere.

    ``votes`` are what ``count_signs`` returned for ``x``, and for min(x, 0) if their sum is
    positive; or they are bools that broadcast over ``x``. They have no gradient. Of all this only
    the output is kept for the backward pass.
    """
    if not _has_values(x):
        return cast(Tensor, _Traced.apply(x, votes))
    if x.device.type == "cpu" and votes.numel() == 1:
        return cast(Tensor, _Eager.apply(x, votes.item() > 0))  # there is no device to wait for
    return cast(Tensor, _Eager.apply(x, votes))


def _rectified(x: Tensor, votes: Tensor | bool) -> Tensor:
    if isinstance(votes, bool):
        zero = x.new_zeros(())
        return torch.minimum(x, zero) if votes else torch.maximum(x, zero)
    if votes.dtype == torch.int32:
        from adarelu_sweep.activations import kernels

        return kernels.rectify(x, votes)
    # Bounds (-inf, 0) or (0, inf) choose the branch without asking the device for the vote.
    keep_negative = votes > 0
    low = torch.where(keep_negative, -_INFINITY, 0.0).to(x.dtype)
    high = torch.where(keep_negative, 0.0, _INFINITY).to(x.dtype)
    # Several times faster than torch.clamp with tensor bounds on a CPU.
    return torch.minimum(torch.maximum(x, low), high)


def _gradient(grad: Tensor, output: Tensor) -> Tensor:
    # Selects rather than multiplies, so that inf and NaN in grad do not leak through zeros.
    return cast(Tensor, torch.ops.aten.threshold_backward(grad, output.abs(), 0))


class _Traced(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, votes: Tensor) -> Tensor:
        return _rectified(x, votes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return _gradient(grad, output), None


class _Eager(torch.autograd.Function):
    """The same, without the rule for vmap, which costs as much as a small layer does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, votes: Tensor | bool) -> Tensor:
        output = _rectified(x, votes)
        ctx.save_for_backward(output)
        ctx.is_relu = votes is False
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        # One operation where that gives the same: the values of _gradient in the output's layout.
        if ctx.is_relu:
            return torch.ops.aten.threshold_backward(grad, output, 0), None
        if _has_values(output) and grad.stride() == output.stride() and _is_safe_at_nan(output):
            return torch.ops.aten.hardshrink_backward(grad, output, 0), None
        return _gradient(grad, output), None


def _is_safe_at_nan(output: Tensor) -> bool:
    """Return whether hardshrink_backward, on the device of ``output``, need not fear NaN.

    Where it is vectorized on a CPU, it stops the gradient there; on CUDA it never does.
    """
    # A sum over one sign is NaN only if an element is. Reading costs less than a temporary does.
    return output.is_cuda or (output.device.type == "cpu" and not output.sum().isnan())


def _has_values(x: Tensor) -> bool:
    """Return whether ``x`` is a tensor as such, and nothing but autograd follows what is done."""
    return (
        not torch.compiler.is_compiling()  # or exporting
        and type(x) in (Tensor, nn.Parameter)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        # PyTorch offers no public way to ask for vmap and its kin, and for dispatch modes.
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


def _is_dense(x: Tensor) -> bool:
    """Return whether the elements fill their memory without gaps or overlaps, in any order."""
    if x.is_neg():
        return False  # in memory they have the other sign
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


@cache
def _kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the module of the Triton kernels, or None where they cannot run."""
    try:
        from adarelu_sweep.activations import kernels
    except ImportError:
        return None
    if dtype not in kernels.DTYPES:
        return None
    try:
        kernels.count(torch.ones(1, dtype=dtype, device=device))
    except Exception as error:  # such as that there is no C compiler, which Triton needs
        warnings.warn(f"AdaReLU does without its Triton kernels: {error}", stacklevel=2)
        return None
    return kernels
