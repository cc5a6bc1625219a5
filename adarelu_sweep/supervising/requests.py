"""Requests to stop: the first lets the steps in hand be finished, the second ends all at once."""

import time
from collections.abc import Callable

from adarelu_sweep.launching.messages import Quit, Stop
from adarelu_sweep.supervising.crew import Crew
from adarelu_sweep.supervising.hands import Hands

_PATIENCE = 4.0  # seconds for the step in hand, before a worker is killed


class StopRequests:
    """Takes the workers out of their work when the user, or the system, asks for it.

    Args:
        crew: The workers.
        hands: What each of them has in hand.
        say: Tells the user.

    Attributes:
        signal: The number of the first signal that asked to stop, if one did.
        at_once: Whether it was asked for more than once.
        deadline: When those who have not stopped by then are killed (``time.monotonic``).
    """

    def __init__(self, crew: Crew, hands: Hands, say: Callable[[str], None]) -> None:
        self._crew = crew
        self._hands = hands
        self._say = say
        self.signal: int | None = None
        self.at_once = False
        self.deadline = float("inf")

    def __bool__(self) -> bool:
        """Return whether it was asked to stop."""
        return self.signal is not None

    def add(self, number: int) -> None:
        """Heed a signal."""
        if self.signal is not None:
            self.at_once = True
            self._kill_all()
            return
        self.signal = number
        self.deadline = time.monotonic() + _PATIENCE
        for worker in self._crew:
            worker.send(Stop() if worker in self._hands else Quit())
        self._say("stopping after the step in hand; once more to stop at once")

    def enforce(self) -> None:
        """Kill the workers that have had their time to stop."""
        if time.monotonic() >= self.deadline:
            self._kill_all()

    def _kill_all(self) -> None:
        self.deadline = float("inf")
        for worker in self._crew:
            self._crew.kill(worker, "was killed")
