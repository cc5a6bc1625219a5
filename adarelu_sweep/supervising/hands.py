"""What every worker has in hand: a trial, or a pack of trials."""

from collections.abc import Iterator, Sequence

from adarelu_sweep.launching.launcher import Worker
from adarelu_sweep.supervising.agenda import Job


class Hands:
    """The trials in hand by worker, each told from the others by its number."""

    def __init__(self) -> None:
        self._jobs: dict[Worker, dict[int, Job]] = {}
        self._alone: dict[Worker, str] = {}  # those who have a trial that has a device to itself

    def __bool__(self) -> bool:
        """Return whether any worker has something in hand."""
        return bool(self._jobs)

    def __contains__(self, worker: Worker) -> bool:
        """Return whether a worker has something in hand."""
        return worker in self._jobs

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over the workers that have something in hand."""
        return iter(list(self._jobs))

    def jobs(self) -> list[Job]:
        """Return all that is in hand."""
        return [job for jobs in self._jobs.values() for job in jobs.values()]

    def of(self, worker: Worker) -> list[Job]:
        """Return what a worker has in hand."""
        return list(self._jobs.get(worker, {}).values())

    def is_alone_on(self, device: str) -> bool:
        """Return whether a trial in hand has this device to itself."""
        return device in self._alone.values()

    def find(self, worker: Worker, number: int) -> Job | None:
        """Return the trial of this number, if the worker has it in hand."""
        return self._jobs.get(worker, {}).get(number)

    def give(self, worker: Worker, jobs: Sequence[Job]) -> None:
        """Give a worker trials that it is to train at once."""
        for job in jobs:
            job.pack = len(jobs)
        self._jobs[worker] = {job.trial.number: job for job in jobs}
        for job in jobs:
            if job.alone_on is not None:
                self._alone[worker] = job.alone_on

    def forget(self) -> None:
        """Take everything out of every hand: it is another supervisor's."""
        self._jobs.clear()
        self._alone.clear()

    def take_back(self, worker: Worker, job: Job) -> None:
        """Take a trial out of a worker's hand."""
        del self._jobs[worker][job.trial.number]
        if not self._jobs[worker]:
            del self._jobs[worker]
            self._alone.pop(worker, None)
