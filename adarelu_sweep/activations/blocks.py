"""Counting signs on the CPU, block by block, so that only the tensor itself comes from memory."""

import torch
from torch import Tensor

_PER_THREAD = 2**18  # elements: few enough for the cache, enough that calls cost little


def count(x: Tensor) -> Tensor:
    """Return the number of positive minus that of negative elements, int64, 0-dim.

    ``x`` is a floating-point CPU tensor, dense in any order, without a gradient. Zeros and NaN
    count as nothing.
    """
    size = _PER_THREAD * torch.get_num_threads()
    # Integers are added without rounding below 2^24 in float32, below 2^53 in float64.
    dtype = torch.float32 if size <= 2**24 else torch.float64
    if x.numel() <= size:
        return x.sign().sum(dtype=dtype).to(torch.int64)
    signs = torch.empty(size, dtype=x.dtype, device=x.device)
    total = 0
    for block in torch.split(x.as_strided((x.numel(),), (1,)), size):
        total += int(torch.sign(block, out=signs[: len(block)]).sum(dtype=dtype))
    return torch.tensor(total, device=x.device)
