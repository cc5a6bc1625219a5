"""The device that a worker trains on."""

from contextlib import suppress

import pynvml
import torch


def training_device() -> torch.device:
    """Return the one GPU that this process can see, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return what people call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def device_metrics(device: torch.device) -> dict[str, float]:
    """Return the use of this process's own GPU: percent busy, and GiB at most since last asked."""
    if device.type != "cuda":
        return {}
    metrics = {"gpu/memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(RuntimeError, pynvml.NVMLError):  # a share of a GPU (MIG), for one, does not tell
        metrics["gpu/utilization"] = float(torch.cuda.utilization(device))
    return metrics
