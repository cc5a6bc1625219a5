"""What there is to train on: GPUs and whether torch can use them, cores, memory."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from adarelu_sweep.benchmarking.processor import has_bf16
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.placing.gpus import Gpu, visible_gpus
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.placing.slots import make_slots
from adarelu_sweep.processes import own_command
from adarelu_sweep.wording import count, size

PATIENCE = 90.0
"""Seconds that torch may take to be imported and to compute: most of them go to a cold disk."""
_AREA = "device"
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def processor() -> Finding:
    """Say how many cores there are, how many of them may be used, and whether they have bf16."""
    cores = available_cores()
    bf16 = {True: ", bf16", False: ", no bf16 instructions", None: ""}[has_bf16()]
    return Finding(
        _AREA,
        "processor",
        State.OK,
        f"{cores} of {count(os.cpu_count() or cores, 'core')} usable{bf16}",
    )


def memory() -> Finding:
    """Say how much memory there is, and how much of it is free."""
    there = psutil.virtual_memory()
    found = f"{size(there.available)} of {size(there.total)} free"
    with suppress(OSError, ValueError):  # no control groups, or no limit
        found += f", limited to {size(int(_CGROUP.read_text()))}"
    return Finding(_AREA, "memory", State.OK, found)


def torch_on_devices() -> Iterator[Finding]:
    """Say of every GPU that is not hidden, or of the CPU if there is none, whether torch uses it.

    Each is tried by a process with what a worker on it has.
    """
    gpus = visible_gpus()
    if not gpus:
        found = "none that NVML shows: training runs on the CPU"
        yield Finding(_AREA, "gpu", State.ABSENT, found)
    slots = make_slots(gpus, None, available_cores())
    named = {f"gpu {gpu.index}": _described(gpu) for gpu in gpus} or {"torch": "on the CPU"}
    processes = [_begin(slot) for slot in slots]  # all at once
    deadline = time.monotonic() + PATIENCE
    tried = [_ending(process, deadline) for process in processes]
    for (name, what), slot, (version, problem) in zip(named.items(), slots, tried, strict=True):
        if problem:
            yield Finding(_AREA, name, State.FAILED, f"{what}: {problem}", _remedy(slot))
        else:
            yield Finding(_AREA, name, State.OK, f"{what}: torch {version} computes")


def _described(gpu: Gpu) -> str:
    busy = f", busy ({gpu.occupants()})" if gpu.is_busy else ""
    return f"{gpu.name}, {size(gpu.memory_bytes)}{busy}"


def _remedy(slot: Slot) -> str:
    if slot.gpu is None:
        return "install torch anew"
    return "install the torch that fits the driver, or train with --gpus none"


def _begin(slot: Slot) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        own_command("adarelu_sweep.diagnosing.trying"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(slot),
    )


def _ending(process: "subprocess.Popen[str]", deadline: float) -> tuple[str, str]:
    """Return the version of the torch that computes in a process, and why it does not, if so."""
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()  # and is not waited for: a driver may hold it for ever
        return "", f"torch gave no result within {PATIENCE:.0f} s"
    with suppress(ValueError, TypeError, AttributeError):
        said = json.loads(out)
        return said.get("torch", ""), said.get("error", "")
    said_last = (err.strip().splitlines() or ["it said nothing"])[-1]
    return "", f"its process ended with status {process.returncode}: {said_last}"
