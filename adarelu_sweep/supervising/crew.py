"""The workers of a running study: who is up, who waits for work, who has gone silent."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from adarelu_sweep.launching.launcher import Launcher, Slot, Worker
from adarelu_sweep.launching.messages import Quit, Ready

_START_ATTEMPTS = 3  # workers of a slot in a row that die before they are ready
_START_PATIENCE = 120.0  # seconds, at least, for imports, for loading data and building a network
_KILL_PATIENCE = 5.0  # seconds after which a killed worker counts as gone, whatever holds it


class Crew:
    """One worker per slot at most.

    Args:
        launcher: Starts workers.
        slots: Where workers may run.
        stall_timeout: Seconds without a sign of progress after which a worker that has something
            to do counts as silent.
    """

    def __init__(self, launcher: Launcher, slots: Sequence[Slot], stall_timeout: float) -> None:
        self._launcher = launcher
        self._slots = list(slots)
        self._given_up: set[int] = set()
        self._stall_timeout = stall_timeout
        self._workers: set[Worker] = set()
        self._idle: set[Worker] = set()
        self._unplaced: set[Worker] = set()
        self._about: dict[Worker, Ready] = {}
        self._deadlines: dict[Worker, float] = {}  # as if no time had been excused
        self._excused = 0.0  # seconds
        self._killed: dict[Worker, str] = {}
        self._failed_starts: Counter[int] = Counter()

    def __len__(self) -> int:
        """Return how many workers there are."""
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over all workers."""
        return iter(list(self._workers))

    def __contains__(self, worker: Worker) -> bool:
        """Return whether a worker is still to be listened to."""
        return worker in self._workers

    @property
    def slots(self) -> list[Slot]:
        """The slots that are not given up."""
        return list(self._slots)

    @property
    def awaits_slots(self) -> bool:
        """Whether slots may come that are not there yet."""
        return self._launcher.offers

    def offer(self, slots: Sequence[Slot]) -> None:
        """Have these slots from now on, but for those that were given up."""
        self._slots = [slot for slot in slots if slot.index not in self._given_up]

    def vacancies(self) -> list[Slot]:
        """Return the slots without a worker, those last that lost theirs before it was ready."""
        taken = {worker.slot.index for worker in self._workers}
        free = [slot for slot in self._slots if slot.index not in taken]
        return sorted(free, key=lambda slot: self._failed_starts[slot.index])

    def start(self, slot: Slot) -> None:
        """Start a worker in a slot."""
        worker = self._launcher.start(slot)
        self._workers.add(worker)
        if worker.placed:
            self._expect(worker, max(self._stall_timeout, _START_PATIENCE))
        else:
            self._unplaced.add(worker)

    def placed(self, worker: Worker) -> None:
        """Note that a worker has got its place: from now on it is expected to come up."""
        self._unplaced.discard(worker)
        self._expect(worker, max(self._stall_timeout, _START_PATIENCE))

    def unplaced(self) -> list[Worker]:
        """Return the workers that wait for a place, those left out that were told to go."""
        return [worker for worker in self._unplaced if worker not in self._deadlines]

    def close(self) -> None:
        """End every worker that is still there."""
        self._launcher.close()

    # Who waits for work

    def ready(self, worker: Worker, message: Ready) -> None:
        """Note that a worker has come up."""
        self._failed_starts[worker.slot.index] = 0
        self._about[worker] = message

    def about(self, worker: Worker) -> Ready:
        """Return what a worker has said of itself."""
        return self._about[worker]

    def rest(self, worker: Worker) -> None:
        """Let a worker wait for work."""
        self._idle.add(worker)
        self._deadlines.pop(worker, None)

    def engage(self, worker: Worker) -> None:
        """Note that a worker has something to do."""
        self._idle.discard(worker)
        self._expect(worker, max(self._stall_timeout, _START_PATIENCE))

    def idle(self) -> list[Worker]:
        """Return the workers that wait, in the order of their slots."""
        return sorted(self._idle, key=lambda worker: worker.slot.index)

    def on_device(self, device: str) -> list[Worker]:
        """Return the workers that use the memory of a device, those that still start included."""
        return [worker for worker in self._workers if worker.slot.device == device]

    def dismiss(self, worker: Worker) -> None:
        """Send a worker home that waits, for work or for a place."""
        self.engage(worker)  # it has an end to come to
        worker.send(Quit())

    # Who has gone silent

    def heard(self, worker: Worker) -> None:
        """Note a sign of progress of a worker that has something to do."""
        if worker not in self._idle:
            self._expect(worker, self._stall_timeout)

    def _expect(self, worker: Worker, patience: float) -> None:
        if worker not in self._killed:
            self._deadlines[worker] = time.monotonic() - self._excused + patience

    def excuse(self, seconds: float) -> None:
        """Leave out a time in which nobody was answered: who waits for an answer is not silent."""
        self._excused += seconds

    def deadline(self) -> float:
        """Return when the first worker counts as silent (``time.monotonic``), if ever."""
        return min(self._deadlines.values(), default=float("inf")) + self._excused

    def silent(self) -> list[Worker]:
        """Return the workers that have given no sign for too long."""
        now = time.monotonic() - self._excused
        return [worker for worker, deadline in self._deadlines.items() if deadline <= now]

    def kill(self, worker: Worker, reason: str) -> bool:
        """Kill a worker; False if it was killed before and is still not reported gone."""
        if worker in self._killed:
            return False
        self._killed[worker] = reason
        self._deadlines[worker] = time.monotonic() - self._excused + _KILL_PATIENCE
        worker.kill()
        return True

    # Who is gone

    def remove(self, worker: Worker, reason: str, counts: bool) -> str:
        """Forget a worker that is gone, and return why it is.

        If ``counts``, one that had its place and was never ready is a failed start of its slot.
        """
        counts = counts and worker not in self._unplaced
        self._unplaced.discard(worker)
        self._workers.discard(worker)
        self._idle.discard(worker)
        self._deadlines.pop(worker, None)
        if self._about.pop(worker, None) is None and counts:
            self._failed_starts[worker.slot.index] += 1
        return self._killed.pop(worker, reason)

    def give_up(self, slot: Slot) -> bool:
        """Give a slot up if its workers do not come up; return whether that is so."""
        if self._failed_starts[slot.index] < _START_ATTEMPTS:
            return False
        self._given_up.add(slot.index)
        self.offer(self._slots)
        return True
