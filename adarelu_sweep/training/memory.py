"""Telling that memory ran out, and how much there is."""

import gc

import psutil
import torch

# How torch, and the libraries below it, say it where they raise a plain RuntimeError.
_SAID = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that the memory of the device or the host ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def memory_of(device: torch.device) -> str:
    """Return how much memory the device has, and how much is free, in words."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"the GPU has {_gib(total)}, {_gib(free)} free"
    memory = psutil.virtual_memory()
    return f"the host has {_gib(memory.total)}, {_gib(memory.available)} free"


def is_scarce(device: torch.device) -> bool:
    """Return whether a GPU has less than three quarters of its memory free; a CPU never is."""
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    return free < 0.75 * total


def give_back(device: torch.device) -> None:
    """Give back the memory of what nobody holds any more, once the device is done with it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
