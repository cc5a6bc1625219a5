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

from adarelu_sweep.benchmarking.measured import device_of
from adarelu_sweep.benchmarking.messages import SAID, Doing, Failed, Group, Order, Said
from adarelu_sweep.benchmarking.results import DeviceResults, results_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.processes import own_command

_SECONDS = 90.0  # that a device may take about, without imports


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    packs: list[int] | None
    """Sizes of packs beside 1. None: on a GPU as many as help, on the CPU none."""
    rounds: int | None
    """How many turns each has. None: as many as there is time for."""
    loaders: int
    """Processes of the plain loop's DataLoader."""


def measure_devices(
    slots: Iterable[Slot],
    groups: list[Group],
    effort: Effort,
    today: date,
    tell: Callable[[str], None],
) -> list[DeviceResults]:
    """Measure the devices of the slots, one after the other; of equal ones the first.

    ``tell`` gets what is measured at the moment, in words. Raises UserError as ``measure`` does.
    """
    first: dict[str, Slot] = {}
    for slot in slots:
        first.setdefault(device_of(slot), slot)
    devices = []
    for slot in first.values():
        none = effort.packs is None and slot.gpu is None
        order = Order(
            groups=groups,
            threads=slot.threads,
            loaders=effort.loaders,
            packs=[] if none else effort.packs,
            rounds=effort.rounds,
            seconds=_SECONDS,
        )

        def tell_of(what: str, name: str = slot.name) -> None:
            tell(f"{name}: {what}")

        tell_of("starting")
        said = measure(slot, order, tell_of)
        devices.append(results_of(slot, order, said, today))
    return devices


def measure(slot: Slot, order: Order, tell: Callable[[str], None]) -> list[Said]:
    """Measure the device of a slot, and return what was said of it.

    Args:
        slot: Whose GPU and threads the process gets.
        order: What is measured.
        tell: Gets what is measured at the moment, in words.

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
            if isinstance(message, Doing):
                tell(message.what)
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
