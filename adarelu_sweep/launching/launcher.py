"""The one interface between the supervisor and the places where workers live."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from adarelu_sweep.launching.messages import FromWorker, ToWorker


@dataclass(frozen=True)
class Slot:
    """Where one worker runs: a GPU, a share of one, or some CPU cores.

    ``gpu`` is the UUID of a GPU, or None for a slot on the CPU; ``threads`` are its CPU threads.
    ``model`` is what the GPU's maker calls it, empty on the CPU.
    """

    index: int
    threads: int
    gpu: str | None = None
    name: str = "cpu"
    model: str = ""

    @property
    def device(self) -> str:
        """Whose memory its worker uses: the GPU's, or the host's."""
        return self.gpu or "cpu"


@dataclass(frozen=True)
class Said:
    """A worker said something."""

    worker: "Worker"
    message: FromWorker


@dataclass(frozen=True)
class Gone:
    """A worker is gone: it exited, was killed, or its node was lost. Its last event, always."""

    worker: "Worker"
    reason: str
    in_order: bool = False
    """It left as it is meant to, told by its supervisor or asked by a signal."""


class Worker(Protocol):
    """A running worker, as the supervisor sees it."""

    slot: Slot

    def send(self, message: ToWorker) -> None:
        """Send a message. To a worker that is gone, it is dropped: ``Gone`` says so already."""

    def kill(self) -> None:
        """End the worker at once."""


Report = Callable[[Said | Gone], None]
"""Takes an event, from any thread."""


class Launcher(Protocol):
    """Starts workers and reports what becomes of them."""

    def start(self, slot: Slot) -> Worker:
        """Start a worker in a slot; it says ``Ready`` when it can take a task."""

    def close(self) -> None:
        """End every worker that is still there and release what the launcher holds."""
