"""What happens to a trial, as both books and the user are told."""

from functools import partial

from adarelu_sweep.files import write_atomically
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.messages import Ready, Started
from adarelu_sweep.recording.patience import Patience
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.snapshots import RUN_STATUS, attempt_tags, result_of, snapshot_of
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.snapshot import RunStatus
from adarelu_sweep.training.history import TRACEBACK, EpochRecord, History


class Bookkeeping:
    """Records in Optuna's book at once, and in the tracker's through the delivery.

    Args:
        agenda: The study's trials.
        delivery: Brings the tracker up to date in the background.
        display: Shows progress.
        patience: Waits while there is no room to write.
    """

    def __init__(
        self, agenda: Agenda, delivery: Delivery, display: Display, patience: Patience
    ) -> None:
        self._agenda = agenda
        self._delivery = delivery
        self._display = display
        self._patience = patience

    def catch_up(self) -> None:
        """Post the trials whose runs an earlier supervisor left behind their state."""
        for job in self._agenda.jobs():
            status = RUN_STATUS[job.trial.state]
            if not Delivered.is_settled(job.folder, self._agenda.uid, status):
                self._post(job, status)
        self.show_counts()

    def started(self, job: Job, slot: Slot, about: Ready, message: Started) -> None:
        """A worker trains a trial from its history on."""
        history = message.history
        job.epochs_done = len(history.epochs)
        job.trial = job.book.describe(job.trial, attempt_tags(job, slot, about, message.pairing))
        self._delivery.post(snapshot_of(job, "RUNNING"), slot.index)
        self._display.started(slot, job.cell.key, len(history.epochs))
        for note in message.notes:
            self.note(job, note)
        for record in history.epochs:  # what was reported before a kill is not known
            self._report(job, record)

    def measured(self, job: Job, record: EpochRecord) -> None:
        """An epoch was measured: a pruner may be asked about it. The rest is for ``trained``."""
        job.epochs_done = record.epoch
        self._report(job, record)

    def trained(self, job: Job, slot: Slot, record: EpochRecord) -> None:
        """An epoch is done."""
        self._delivery.post(snapshot_of(job, "RUNNING"), slot.index, at_once=False)
        self._display.epoch(slot, job.cell.key, record)

    def note(self, job: Job, text: str) -> None:
        """Tell the user something of a trial."""
        self._display.say(f"{job.cell.key}: {text}")

    def finished(self, job: Job, slot: Slot, history: History) -> None:
        """A trial has its outcome."""
        result = result_of(history, job.cell.settings.measured_on)
        if history.outcome == "pruned":
            job.trial = job.book.prune(job.trial, result)
        else:
            job.trial = job.book.complete(job.trial, result)
        self._post(job, "FINISHED")
        self.show_counts()
        self._display.finished(slot, job.cell.key, history)

    def hand_back(self, job: Job) -> None:
        """An unfinished trial waits, next in line."""
        self._agenda.put_back(job)
        self._post(job, "KILLED")  # until it runs again, in a moment or after a resume
        self.show_counts()

    def fail(self, job: Job, error: str, traceback: str) -> None:
        """A trial failed for good."""
        # First: nothing writes it for a trial that has failed.
        self._patience.do(partial(write_atomically, job.folder / TRACEBACK, traceback.encode()))
        job.trial = job.book.fail(job.trial, error)
        self._post(job, "FAILED")
        self.show_counts()
        self._display.say(f"{job.cell.key} failed: {error}")

    def show_counts(self) -> None:
        """Show how many trials are in which state."""
        self._display.counts(self._agenda.counts())

    def _report(self, job: Job, record: EpochRecord) -> None:
        accuracy = record.metrics[f"{job.cell.settings.measured_on}/accuracy"]
        job.book.report(job.trial, record.epoch, accuracy)

    def _post(self, job: Job, status: RunStatus) -> None:
        self._delivery.post(snapshot_of(job, status))
