"""How many trials of one arm a worker trains at once."""

import json
from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.training.settings import TrialSettings

AUTO = 0
"""The size of a pack that is chosen by what was measured."""
LARGEST = 64
"""Trials that a worker may train at once."""


def pack_size(given: str | None) -> int | None:
    """Read what ``--pack`` was given, None if it was not; raise UserError where it is no size."""
    if given is None:
        return None
    if given == "auto":
        return AUTO
    if given.isascii() and given.isdigit() and len(given) <= 2 and 1 <= int(given) <= LARGEST:
        return int(given)
    raise UserError(f"--pack {given}: give auto, or a number from 1 to {LARGEST}")


def best_size(slot: Slot, settings: TrialSettings, bench: Path) -> int:
    """Return how many trials at once were measured to be best; 1 where nothing is known.

    ``bench`` is a JSON file whose ``devices`` say it by device, network and precision.
    """
    if slot.gpu is None:
        return 1
    network, precision = settings.network.label, settings.training.precision
    try:
        devices = json.loads(bench.read_bytes())["devices"]
        size = devices[slot.model][network][precision]["pack"]
    except (OSError, ValueError, LookupError, TypeError):
        return 1
    return size if isinstance(size, int) and 1 <= size <= LARGEST else 1


class Packing:
    """The size of a pack: what is asked for, and no more than memory has been enough for.

    Args:
        asked: Trials at once, or ``AUTO``.
        bench: What was measured, if it was.
    """

    def __init__(self, asked: int, bench: Path) -> None:
        self._asked = asked
        self._bench = bench
        self._limits: dict[tuple[str, str], int] = {}

    def size(self, slot: Slot, settings: TrialSettings) -> int:
        """Return how many trials like this one a worker of a slot may train at once."""
        size = self._asked or best_size(slot, settings, self._bench)
        return min(size, self._limits.get((slot.device, settings.arm), size))

    def shrink(self, slot: Slot, settings: TrialSettings, size: int) -> int:
        """Note that memory ran out with so many at once; return how many are tried from now on."""
        key = (slot.device, settings.arm)
        self._limits[key] = min(max(1, size // 2), self._limits.get(key, LARGEST))
        return self._limits[key]
