"""Dividing a machine into slots."""

import os

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.gpus import Gpu


def available_cores() -> int:
    """Return the CPU cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_slots(gpus: list[Gpu], workers: int | None, cores: int) -> list[Slot]:
    """Return the slots: by default one per GPU, or one in all without GPUs.

    Slots beyond one per GPU share the GPUs in turn; every slot gets its share of the cores as
    threads, one at least.
    """
    count = workers if workers is not None else max(1, len(gpus))
    if count < 1:
        raise UserError(f"--workers {count}: give 1 or more")
    threads = max(1, cores // count)
    if not gpus:
        return [Slot(index, threads) for index in range(count)]
    slots = []
    for index in range(count):
        gpu = gpus[index % len(gpus)]
        slots.append(Slot(index, threads, gpu.uuid, f"GPU {gpu.index} ({gpu.name})", gpu.name))
    return slots
