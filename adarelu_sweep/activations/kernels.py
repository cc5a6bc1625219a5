"""AdaReLU on CUDA as two Triton kernels: one counts, the other one adds up and rectifies.

Nothing waits for the device: the counts stay there, and every program of the second kernel adds
them up for itself, which saves a third kernel. They are integers, so that no order of the programs
and no size of the tensor changes a result. Nothing is tuned at run time. What is compiled, at its
first use, is a kernel for a dtype, an alignment, and a number of elements that 16 divides or does
not: that has to come before a capture into a CUDA graph, as warming up does for any operation.

Importing this module imports Triton; ``rectifier`` does so for the first CUDA tensor.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_TILE = 4096  # elements that a program holds at a time: 16 in each of 256 threads
_PARTS = 512  # partial counts at most: about four programs on each multiprocessor of an H100
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}  # nothing to fuse; unsaid, Triton 3.9 warns


def count(x: Tensor) -> Tensor:
    """Return parts, int32, whose sum is the number of positive minus that of negative elements.

    ``x`` is a CUDA tensor of one of ``DTYPES`` with at least one element, dense in any order.
    """
    programs = min(triton.cdiv(x.numel(), _TILE), _PARTS)
    parts = torch.empty(programs, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        _count[(programs,)](x, parts, x.numel(), tile=_TILE, **_OPTIONS)
    return parts


def rectify(x: Tensor, parts: Tensor) -> Tensor:
    """Return min(x, 0) where the sum of ``parts`` is positive, max(x, 0) elsewhere.

    ``x`` and ``parts`` are as in ``count``; the result has the strides of ``x``.
    """
    output = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), _TILE),)
    with torch.cuda.device_of(x):
        _rectify[grid](
            x, parts, output, x.numel(), parts.numel(), slots=_PARTS, tile=_TILE, **_OPTIONS
        )
    return output


@triton.jit
def _count(x, parts, elements, tile: tl.constexpr):
    # Offsets in 64 bits: in 32 the last tile of a tensor just below 2^31 elements would wrap.
    first = tl.program_id(0).to(tl.int64) * tile
    signs = tl.zeros((tile,), tl.int32)
    for start in range(first, elements, tl.num_programs(0) * tile):
        at = start + tl.arange(0, tile)
        value = tl.load(x + at, mask=at < elements, other=0.0).to(tl.float32)
        signs += (value > 0).to(tl.int32) - (value < 0).to(tl.int32)
    tl.store(parts + tl.program_id(0), tl.sum(signs))


@triton.jit
def _rectify(x, parts, output, elements, programs, slots: tl.constexpr, tile: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    value = tl.load(x + at, mask=at < elements, other=0.0)  # under way while the parts are added
    part = tl.arange(0, slots)
    balance = tl.sum(tl.load(parts + part, mask=part < programs, other=0).to(tl.int64))
    # Comparisons that are false for NaN, which stays; -0.0 becomes what the plain path makes of it.
    compared = value.to(tl.float32)
    suppressed = tl.where(balance > 0, compared > 0, compared <= 0)
    tl.store(output + at, tl.where(suppressed, 0.0, value), mask=at < elements)
