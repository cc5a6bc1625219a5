"""What machine a benchmark ran on, in a line."""

import os
import platform
from pathlib import Path

import torch

from adarelu_sweep.training.device import device_name


def machine(device: torch.device) -> str:
    """Say where this runs: the device, threads, cores, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = device_name(device) if device.type == "cuda" else cpu_model()
    threads = f"threads: {torch.get_num_threads()}, cores: {cores}"
    return f"{where}, {threads}, torch {torch.__version__}, Python {platform.python_version()}"


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
