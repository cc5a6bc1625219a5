"""The device that a worker trains on."""

import os
from contextlib import suppress

import pynvml
import torch


def training_device() -> torch.device:
    """Return the GPU that this process was given, or the CPU if it was given none.

    Raises RuntimeError where torch cannot use the GPU: training would go on, slowly, unnoticed.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if given:
        raise RuntimeError(
            f"torch {torch.__version__} cannot use the GPU {given}: its driver is too old, or this "
            "torch was built without CUDA"
        )
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return what people call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def device_metrics(device: torch.device) -> dict[str, float]:
    """Return the use of this process's own GPU: percent busy, and GiB at most since last asked.

    That is what it has reserved: memory of captured steps counts as free once it is reserved.
    """
    if device.type != "cuda":
        return {}
    metrics = {"gpu/memory_gib": torch.cuda.max_memory_reserved(device) / 2**30}
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(RuntimeError, pynvml.NVMLError):  # a share of a GPU (MIG), for one, does not tell
        metrics["gpu/utilization"] = float(torch.cuda.utilization(device))
    return metrics
