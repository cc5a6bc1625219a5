"""Dividing a machine into slots."""

from dataclasses import replace

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.gpus import Gpu
from adarelu_sweep.placing.machine import available_cores, available_memory
from adarelu_sweep.studies.schema import Study

_ROOM = 2 * 2**30  # bytes: what a CPU worker with a network of full width needs, and some more


def slots_for(
    study: Study, gpus: list[Gpu], workers: int | None, threads: int | None = None
) -> list[Slot]:
    """Return the slots of a study on this machine, as many as it says or as suit it.

    Without GPUs that is a slot for each core: a batch of 32 images is too little work for several
    threads (``benchmarks/cpu_slots.py``). No more, though, than it has trials and there is memory
    for, and one where it searches: what is proposed next depends on which trial ends first.

    Args:
        study: What is trained.
        gpus: Those that it may have.
        workers: How many slots it is to have; None for what suits.
        threads: Of a slot, where they are given, because numbers depend on them.
    """
    cores = available_cores()
    if workers is None and not gpus:
        room = available_memory() // _ROOM
        side_by_side = min(cores // (threads or 1), study.number_of_trials(), room)
        workers = max(1, side_by_side) if study.search is None else 1
    slots = make_slots(gpus, workers, cores)
    return slots if threads is None else [replace(slot, threads=threads) for slot in slots]


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
