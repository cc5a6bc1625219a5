"""Who shares a device with whom: a trial that met a want of memory is to have one to itself."""

from collections.abc import Mapping

from adarelu_sweep.launching.launcher import Worker
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.crew import Crew


class Sharing:
    """Gives workers their trials, so that a reserved device becomes free and is used by one alone.

    Args:
        agenda: What is next, and which devices a trial that waits is to have for itself.
        crew: The workers, and where they are.
        jobs: What each of them has in hand; a view of the supervisor's.
    """

    def __init__(self, agenda: Agenda, crew: Crew, jobs: Mapping[Worker, Job]) -> None:
        self._agenda = agenda
        self._crew = crew
        self._jobs = jobs

    def take(self, worker: Worker) -> Job | None:
        """Take the next trial for a worker; None if it has to wait, or there is none."""
        device = worker.slot.device
        if device in self._agenda.reserved():
            alone = self._crew.on_device(device) == [worker]
            return self._agenda.take_alone(device) if alone else None
        if self._is_closed(device):
            return None
        return self._agenda.take(worker.slot, spread=len(self._crew.slots) > 1)

    def needs(self, device: str) -> bool:
        """Return whether one more worker on a device would have something to do."""
        if device in self._agenda.reserved():
            return not self._crew.on_device(device)
        return len(self._crew) < self._agenda.left() and not self._is_closed(device)

    def _is_closed(self, device: str) -> bool:
        """Return whether a trial has this device to itself."""
        return any(job.alone_on == device for job in self._jobs.values())

    def may_go(self, worker: Worker) -> bool:
        """Return whether a worker that waits does so for nothing, or keeps a device from another.

        As long as trials run, one may come back to be taken up again.
        """
        reserved = self._agenda.reserved()
        if worker.slot.device in reserved:
            waiting = [w for w in self._crew.idle() if w.slot.device == worker.slot.device]
            return worker is not waiting[0]
        return not self._jobs and not reserved
