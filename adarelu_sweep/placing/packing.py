"""How many trials of one arm a worker trains at once."""

from adarelu_sweep.benchmarking.measured import best_pack
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
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


def best_size(home: Home, slot: Slot, settings: TrialSettings) -> int:
    """Return how many trials at once are best by what is known; 1 where nothing is.

    On a CPU it is 1: a trial has all the slot's cores as it is.
    """
    return measured_size(home, slot, settings) or 1 if slot.gpu else 1


def measured_size(home: Home, slot: Slot, settings: TrialSettings) -> int | None:
    """Return how many trials at once were measured to be best on a slot's GPU, None if none was."""
    size = best_pack(home, slot.model, settings)
    return size and min(size, LARGEST)


class Packing:
    """The size of a pack: what is asked for, and no more than memory has been enough for.

    Args:
        asked: Trials at once, or ``AUTO``.
        home: Where it is kept what was measured.
    """

    def __init__(self, asked: int, home: Home) -> None:
        self._asked = asked
        self._home = home
        self._best: dict[tuple[str, str], int] = {}
        self._limits: dict[tuple[str, str], int] = {}

    def size(self, slot: Slot, settings: TrialSettings) -> int:
        """Return how many trials like this one a worker of a slot may train at once."""
        size = self._asked or self._best_size(slot, settings)
        return min(size, self._limits.get((slot.device, settings.arm), size))

    def _best_size(self, slot: Slot, settings: TrialSettings) -> int:
        key = (slot.device, settings.arm)
        if key not in self._best:
            self._best[key] = best_size(self._home, slot, settings)
        return self._best[key]

    def shrink(self, slot: Slot, settings: TrialSettings, size: int) -> int:
        """Note that memory ran out with so many at once; return how many are tried from now on."""
        key = (slot.device, settings.arm)
        self._limits[key] = min(max(1, size // 2), self._limits.get(key, LARGEST))
        return self._limits[key]
