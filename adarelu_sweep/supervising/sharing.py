"""Who gets how much: what is left divided among the workers, and a device for one trial alone."""

from math import ceil

from adarelu_sweep.launching.launcher import Worker
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.crew import Crew
from adarelu_sweep.supervising.hands import Hands


class Sharing:
    """Gives workers their trials.

    A trial that met a want of memory is to have a device to itself: that one is reserved, becomes
    free, and is used by one worker alone.

    Args:
        agenda: What is next, and which devices a trial that waits is to have for itself.
        crew: The workers, and where they are.
        hands: What each of them has in hand.
        packing: How many trials a worker may train at once.
    """

    def __init__(self, agenda: Agenda, crew: Crew, hands: Hands, packing: Packing) -> None:
        self._agenda = agenda
        self._crew = crew
        self._hands = hands
        self._packing = packing

    def take(self, worker: Worker) -> list[Job]:
        """Take the next trial for a worker, or a pack; none if it has to wait, or there is none."""
        slot = worker.slot
        if slot.device in self._agenda.reserved():
            alone = self._crew.on_device(slot.device) == [worker]
            return [self._agenda.take_alone(slot.device)] if alone else []
        if self._is_closed(slot.device):
            return []
        spread = len(self._crew.slots) > 1
        job = self._agenda.take(slot, spread)
        if job is None:
            return []
        most = self._packing.size(slot, job.cell.settings)
        if most > 1:  # or else what all have in hand need not be looked at
            most = min(most, self._share())
        return [job, *self._agenda.take_along(job, most - 1, slot, spread)]

    def _share(self) -> int:
        """Return how many trials of all that are left would be one worker's, the taken one too.

        Those in hand count by the epochs that they lack: their workers will soon want some, too.
        """
        lacking = sum(job.lacking for job in self._hands.jobs())
        left = self._agenda.waiting() + 1 + round(lacking)
        return ceil(left / max(1, len(self._crew.slots)))

    def needs(self, device: str) -> bool:
        """Return whether one more worker on a device would have something to do."""
        if device in self._agenda.reserved():
            return not self._crew.on_device(device)
        return len(self._crew) < self._agenda.left() and not self._is_closed(device)

    def needs_placed(self, worker: Worker) -> bool:
        """Return whether a worker that waits for a place would have something to do there."""
        if worker.slot.device in self._agenda.reserved():
            return self._crew.on_device(worker.slot.device) == [worker]
        return self._agenda.left() > 0

    def _is_closed(self, device: str) -> bool:
        """Return whether a trial has this device to itself."""
        return self._hands.is_alone_on(device)

    def may_go(self, worker: Worker) -> bool:
        """Return whether a worker that waits does so for nothing, or keeps a device from another.

        As long as trials run, one may come back to be taken up again.
        """
        reserved = self._agenda.reserved()
        if worker.slot.device in reserved:
            waiting = [w for w in self._crew.idle() if w.slot.device == worker.slot.device]
            return worker is not waiting[0]
        return not self._hands and not reserved
