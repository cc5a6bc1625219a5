"""How much of this machine's processor and memory this process may use."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limits (control groups, version 2)."""


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return the CPU cores that this process may use, which can be fewer than the machine has.

    A container's share of the processor's time counts as so many cores, rounded up.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file, or "max" in it
        microseconds, period = (cgroup / "cpu.max").read_text().split()
        cores = min(cores, ceil(int(microseconds) / int(period)))
    return cores


def available_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that are free, within what a container is limited to."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        limit, used = (
            int((cgroup / f"memory.{which}").read_text()) for which in ("max", "current")
        )
        free = min(free, max(0, limit - used))
    return free
