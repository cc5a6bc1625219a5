"""Tensors as they are at a moment, to be written while training changes the originals."""

from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from adarelu_sweep.training.sealed import seal


class Snapshot:
    """Copies of tensors, made on their device without waiting for it.

    Where its memory is not enough for that, they are made on the CPU, which waits.

    Args:
        tensors: Of any shape and dtype, on one device. Two names may stand for one tensor, as those
            of a module that is used twice do.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        try:
            self._tensors = {name: _copy(tensor) for name, tensor in tensors.items()}
        except torch.OutOfMemoryError:
            self._tensors = {name: _copy(tensor.cpu()) for name, tensor in tensors.items()}
        self._copied: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in self._tensors.values()):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def packed(self, entries: Mapping[str, str]) -> tuple[bytes, memoryview]:
        """Return the parts of a sealed file with the tensors, and texts as metadata.

        May be called in any thread; waits for the copies.
        """
        if self._copied is not None:  # made on another stream than the one that reads them
            self._copied.synchronize()
        return seal(save({name: tensor.cpu() for name, tensor in self._tensors.items()}), entries)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
