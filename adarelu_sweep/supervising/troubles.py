"""What becomes of the trials of a worker in trouble: by its cause they go on, or fail."""

from collections.abc import Callable, Sequence

from adarelu_sweep.launching.launcher import Slot, Worker
from adarelu_sweep.launching.messages import Failed
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.supervising.agenda import Job
from adarelu_sweep.supervising.bookkeeping import Bookkeeping
from adarelu_sweep.supervising.hands import Hands
from adarelu_sweep.wording import count


class Troubles:
    """Takes everything out of the hand of a worker that is in trouble.

    No trial fails by what another one of its pack may have done.

    Args:
        hands: What each worker has in hand.
        books: Where it is recorded.
        packing: How many trials a worker may train at once.
        max_retries: How often a trial is taken up again whose worker was lost.
        say: Tells the user.
    """

    def __init__(
        self,
        hands: Hands,
        books: Bookkeeping,
        packing: Packing,
        max_retries: int,
        say: Callable[[str], None],
    ) -> None:
        self._hands = hands
        self._books = books
        self._packing = packing
        self._max_retries = max_retries
        self._say = say

    def hand_back(self, worker: Worker) -> None:
        """Let what a worker has in hand wait, next in line."""
        self._hand_back(worker, self._hands.of(worker))

    def left(self, worker: Worker) -> None:
        """A worker was asked to go, as before its node is taken away: that is no loss."""
        jobs = self._hands.of(worker)
        self._say(f"{_named(jobs)}: {_its(jobs)} worker was asked to go; {_goes(jobs)} in another")
        self._hand_back(worker, jobs)

    def lost(self, worker: Worker, reason: str) -> None:
        """A worker died with trials in hand: they are taken up again from their checkpoints."""
        again = []
        for job in self._hands.of(worker):
            job.trial = job.book.lose(job.trial)
            job.lost_in = worker.slot.index
            spent = job.trial.losses > self._max_retries
            if spent and job.pack == 1:
                times = count(job.trial.losses, "time")
                error = f"its worker was lost {times}; the last one {reason}"
                self._give_up(worker, job, error, error)
            else:
                job.alone |= spent
                again.append(job)
        if again:
            self._say(f"{_named(again)}: {_its(again)} worker {reason}; {_goes(again)} in another")
        self._hand_back(worker, again)

    def failed(self, worker: Worker, message: Failed) -> None:
        """An exception would come again: the trial failed, the others of its pack go on.

        Want of memory may not, in a smaller pack, or if the trial has the device to itself.
        """
        jobs = self._hands.of(worker)
        blamed = [job for job in jobs if job.trial.number in message.trials]
        if message.cause == "memory" and blamed:
            self._short_of_memory(worker, blamed, message)
        elif len(message.trials) > 1 and blamed:
            for job in blamed:
                job.alone = True
            self._say(f"{_named(blamed)}: {message.error}; each is tried again by itself")
        else:
            for job in blamed:
                self._give_up(worker, job, message.error, message.traceback)
        self.hand_back(worker)

    def _short_of_memory(self, worker: Worker, jobs: list[Job], message: Failed) -> None:
        slot, job = worker.slot, jobs[0]
        if job.pack > 1:
            how = self._shrunk(slot, job)
        elif job.alone_on is None:
            job.alone_on = slot.device
            how = "it is tried again alone"
        else:
            error = f"with the device to itself: {message.error}"
            self._give_up(worker, job, error, message.traceback)
            return
        self._say(f"{_named(jobs)}: {message.error}; {how}")

    def _shrunk(self, slot: Slot, job: Job) -> str:
        """Make the packs of an arm smaller on a device, and say so."""
        size = self._packing.shrink(slot, job.cell.settings, job.pack)
        many = f"in packs of {size}" if size > 1 else "one by one"
        return f"{job.pack} at once are too many: again {many}"

    def _give_up(self, worker: Worker, job: Job, error: str, traceback: str) -> None:
        self._hands.take_back(worker, job)
        self._books.fail(job, error, traceback)

    def _hand_back(self, worker: Worker, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):  # each before the one that was handed back last
            self._hands.take_back(worker, job)
            self._books.hand_back(job)


def _named(jobs: Sequence[Job]) -> str:
    """Name a trial, or a pack by its first one."""
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return jobs[0].cell.key + more


def _its(jobs: Sequence[Job]) -> str:
    return "its" if len(jobs) == 1 else "their"


def _goes(jobs: Sequence[Job]) -> str:
    return "it goes on" if len(jobs) == 1 else "they go on"
