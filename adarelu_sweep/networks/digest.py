"""A short name for the weights of a network, to tell whether two have the same."""

import hashlib
from itertools import chain

import torch
from torch import nn

from adarelu_sweep.activations.layers import own_modules


def weight_digest(network: nn.Module) -> str:
    """Return the first 16 hex digits of a SHA-256 over a network's parameters and buffers.

    Names, types, shapes and bytes count; memory layout and device do not, nor does what belongs to
    the activations.
    """
    digest = hashlib.sha256()
    for path, module in own_modules(network):
        own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in own:
            digest.update(f"{path}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
