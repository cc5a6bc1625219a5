"""The GPUs of this machine, from NVML: which are there, and which are busy."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from adarelu_sweep.errors import UserError


class Gpu(BaseModel):
    """One GPU of this machine."""

    model_config = ConfigDict(frozen=True)

    index: int
    """Its place in NVML's order, which is nvidia-smi's."""
    uuid: str
    name: str
    memory_bytes: int
    processes: dict[int, int] = {}
    """Process id to bytes of GPU memory held, of every process that computes on it."""

    @property
    def is_busy(self) -> bool:
        """Return whether some process computes on it."""
        return bool(self.processes)

    def occupants(self) -> str:
        """Name the processes on it."""
        return ", ".join(
            f"process {pid} with {held / 2**30:.1f} GiB" for pid, held in self.processes.items()
        )


def list_gpus() -> list[Gpu]:
    """Return the GPUs in NVML's order; none where there is no NVIDIA driver.

    ``ADARELU_SWEEP_GPU_LISTING`` may name a recorded listing, a JSON list of what this function
    returned elsewhere, which then stands in for the machine's own.
    """
    recorded = os.environ.get("ADARELU_SWEEP_GPU_LISTING")
    if recorded:
        try:
            return _GPUS.validate_json(Path(recorded).read_bytes())
        except (OSError, ValidationError):
            raise UserError(f"ADARELU_SWEEP_GPU_LISTING: {recorded} is no GPU listing") from None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):  # fallen off the bus: it is not there
                gpus.append(_describe(index))
        return gpus
    finally:
        pynvml.nvmlShutdown()


def choose_gpus(
    request: str | None, taken: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Gpu], list[str]]:
    """Return the GPUs that a request means, and warnings to show.

    Args:
        request: ``all``, ``none``, or indices such as ``0,1``. None is ``all``, and no GPU is fine.
        taken: The UUIDs of GPUs on which other studies of the home train, and the studies' names.

    ``all`` leaves out the busy ones; a GPU asked for by its index is used even if it is busy, but
    not if another study of the home has it. Raises UserError for what is not there and for a
    request that is none of these.
    """
    if request == "none":
        return [], []
    gpus = visible_gpus()
    if request in (None, "all"):
        return _free(gpus, taken, required=request == "all")
    indices = request.split(",") if request else []
    if not indices or not all(re.fullmatch(r"\s*\d{1,4}\s*", index) for index in indices):
        raise UserError(f"--gpus {request}: give all, none, or indices such as 0,1")
    by_index = {gpu.index: gpu for gpu in gpus}
    chosen = []
    for index in dict.fromkeys(int(index) for index in indices):
        if index not in by_index:
            raise UserError(f"--gpus {request}: GPU {index} is not there; {_there(gpus)}")
        if study := taken.get(by_index[index].uuid):
            raise UserError(
                f"--gpus {request}: study {study!r} trains on GPU {index}: wait for it, or choose "
                "another"
            )
        chosen.append(by_index[index])
    return chosen, [
        f"GPU {gpu.index} is busy ({gpu.occupants()}); it is used all the same, as asked"
        for gpu in chosen
        if gpu.is_busy
    ]


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` does not hide, as in every CUDA program."""
    gpus = list_gpus()
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return gpus
    shown = [entry.strip() for entry in setting.split(",") if entry.strip()]
    return [
        gpu
        for gpu in gpus
        if any(entry == str(gpu.index) or gpu.uuid.startswith(entry) for entry in shown)
    ]


def _free(gpus: list[Gpu], taken: Mapping[str, str], required: bool) -> tuple[list[Gpu], list[str]]:
    free = [gpu for gpu in gpus if not gpu.is_busy and gpu.uuid not in taken]
    if required and not gpus:
        raise UserError(
            "--gpus all: this machine has no NVIDIA GPU; leave --gpus out, or give none"
        )
    if gpus and not free:
        busy = "; ".join(
            f"GPU {gpu.index}: {_study(gpu, taken) or gpu.occupants()}" for gpu in gpus
        )
        raise UserError(f"every GPU is busy ({busy}): wait, or name one, as in --gpus 0")
    warnings = []
    for gpu in gpus:
        if study := _study(gpu, taken):
            warnings.append(f"GPU {gpu.index} is left out: {study} trains on it")
        elif gpu.is_busy:
            warnings.append(
                f"GPU {gpu.index} is busy ({gpu.occupants()}) and left out; name it to use it"
            )
    return free, warnings


def _study(gpu: Gpu, taken: Mapping[str, str]) -> str:
    """Name the study that has a GPU; empty if none has."""
    return f"study {taken[gpu.uuid]!r}" if gpu.uuid in taken else ""


def _there(gpus: list[Gpu]) -> str:
    if not gpus:
        return "this machine has none that NVML shows; give --gpus none to train on the CPU"
    return "there are " + ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)


def _describe(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:  # not supported everywhere
        processes = []
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        processes={process.pid: process.usedGpuMemory or 0 for process in processes},
    )


_GPUS = TypeAdapter(list[Gpu])


def recorded(gpus: list[Gpu]) -> str:
    """Return a listing as JSON, as ``ADARELU_SWEEP_GPU_LISTING`` reads it."""
    return json.dumps([gpu.model_dump() for gpu in gpus])
