"""What machine a benchmark ran on, in a line."""

import os
import platform

import torch

from adarelu_sweep.benchmarking.processor import processor_name
from adarelu_sweep.training.device import device_name


def machine(device: torch.device) -> str:
    """Say where this runs: the device, threads, cores, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = device_name(device) if device.type == "cuda" else processor_name()
    threads = f"threads: {torch.get_num_threads()}, cores: {cores}"
    return f"{where}, {threads}, torch {torch.__version__}, Python {platform.python_version()}"
