"""The one interface between the supervisor and the places where workers live."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from adarelu_sweep.launching.messages import FromWorker, ToWorker


@dataclass(frozen=True)
class Slot:
    """Where one worker runs: a GPU, a share of one, or some CPU cores.

    ``gpu`` is the UUID of a GPU, or None for a slot on the CPU; ``threads`` are its CPU threads.
    ``model`` is what the GPU's maker calls it, empty on the CPU. In a cluster ``node`` is the id of
    the node that it is on, and ``gpu`` names no more than that it has one.
    """

    index: int
    threads: int
    gpu: str | None = None
    name: str = "cpu"
    model: str = ""
    node: str = ""

    @property
    def device(self) -> str:
        """Whose memory its worker uses: the GPU's, or the host's."""
        return self.gpu or self.node or "cpu"


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


@dataclass(frozen=True)
class Placed:
    """A worker that had to wait for a place has one, and is started there."""

    worker: "Worker"


@dataclass(frozen=True)
class Offer:
    """Nodes have come or gone: these are the slots from now on."""

    slots: list[Slot]


class Worker(Protocol):
    """A running worker, as the supervisor sees it."""

    slot: Slot
    placed: bool = True
    """Whether it has a place; one that waits for it is not slow."""

    def send(self, message: ToWorker) -> None:
        """Send a message. To a worker that is gone, it is dropped: ``Gone`` says so already."""

    def kill(self) -> None:
        """End the worker at once."""


Event = Said | Gone | Placed | Offer
"""What a launcher reports."""

Report = Callable[[Event], None]
"""Takes an event, from any thread."""


class Launcher(Protocol):
    """Starts workers and reports what becomes of them."""

    offers: bool = False
    """Whether slots come and go: where none is left, another may come."""

    def start(self, slot: Slot) -> Worker:
        """Start a worker in a slot; it says ``Ready`` when it can take a task."""

    def close(self) -> None:
        """End every worker that is still there and release what the launcher holds."""
