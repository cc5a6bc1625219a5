"""Measuring in a process of its own, which has what the worker of a slot has."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import IO

from pydantic import ValidationError

from adarelu_sweep.benchmarking.measured import Measurement, device_of
from adarelu_sweep.benchmarking.messages import (
    SAID,
    Begun,
    Doing,
    Failed,
    Group,
    Measured,
    Order,
    Said,
)
from adarelu_sweep.benchmarking.results import DeviceResults, measurement_of, results_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.processes import own_command

_SECONDS = 90.0  # that a device may take about, if neither time nor rounds are given


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    packs: list[int] | None
    """Sizes of packs beside 1. None: on a GPU as many as help, on the CPU none."""
    rounds: int | None
    """How many turns each has, if there is time. None: as many as there is time for."""
    seconds: float | None
    """About how long each device is measured, without imports. None: as long as the rounds take,
    or some minutes where their number is not given."""
    loaders: int
    """Processes of the plain loop's DataLoader."""


def measure_devices(
    slots: Iterable[Slot],
    groups: list[Group],
    effort: Effort,
    today: date,
    tell: Callable[[str], None],
    keep: Callable[[Measurement], None],
) -> list[DeviceResults]:
    """Measure the devices of the slots, one after the other; of equal ones the first.

    ``tell`` gets what is measured at the moment, in words; ``keep`` every measurement as it comes,
    so that none is lost with what goes wrong later. Raises UserError as ``measure`` does.
    """
    first: dict[str, Slot] = {}
    for slot in slots:
        first.setdefault(device_of(slot), slot)
    return [_measured(slot, groups, effort, today, tell, keep) for slot in first.values()]


def _measured(
    slot: Slot,
    groups: list[Group],
    effort: Effort,
    today: date,
    tell: Callable[[str], None],
    keep: Callable[[Measurement], None],
) -> DeviceResults:
    none = effort.packs is None and slot.gpu is None
    seconds = _SECONDS if effort.seconds is None and effort.rounds is None else effort.seconds
    order = Order(
        groups=groups,
        threads=slot.threads,
        loaders=effort.loaders,
        packs=[] if none else effort.packs,
        rounds=effort.rounds,
        seconds=seconds,
    )
    versions: dict[str, str] = {}

    def hear(message: Said) -> None:
        if isinstance(message, Begun):
            versions.update(message.versions)
        elif isinstance(message, Doing):
            tell(f"{slot.name}: {message.what}")
        elif isinstance(message, Measured) and not message.plain:
            keep(measurement_of(slot, order, message, versions, today))

    tell(f"{slot.name}: starting")
    return results_of(slot, order, measure(slot, order, hear), today)


def measure(slot: Slot, order: Order, hear: Callable[[Said], None]) -> list[Said]:
    """Measure the device of a slot, and return what was said of it.

    Args:
        slot: Whose GPU and threads the process gets.
        order: What is measured.
        hear: Gets what is said, as it comes.

    Raises UserError with the reason where it cannot be done. Whatever is raised meanwhile, the
    process is gone afterwards.
    """
    said: list[Said] = []
    with tempfile.TemporaryFile() as complaints, _process(slot, complaints) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and its exit code will tell
            process.stdin.write(order.model_dump_json().encode())
            process.stdin.close()
        for line in process.stdout:
            try:
                message = SAID.validate_json(line)
            except ValidationError:  # cut off in the middle of a line: the process is ending
                continue
            if isinstance(message, Failed):
                raise UserError(f"measuring {slot.name} failed: {message.error}")
            hear(message)
            said.append(message)
        if code := process.wait():
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(
                f"measuring {slot.name} ended with status {code}: "
                f"{last[0] if last else 'it said nothing'}"
            )
    return said


@contextmanager
def _process(slot: Slot, complaints: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        own_command("adarelu_sweep.benchmarking.measuring"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env=environment(slot),
        process_group=0,  # so that the loaders of the plain loop end with it
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
