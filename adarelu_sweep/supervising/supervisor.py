"""The supervisor: decides which trial is trained where, and alone writes the books of a study.

It is one loop over one inbox. What workers, launcher and signals have to say arrives there; what is
to be recorded goes to the ledger at once and to the tracker through the delivery's threads.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.launching.launcher import Gone, Launcher, Said, Slot, Worker
from adarelu_sweep.launching.messages import (
    Decision,
    EpochDone,
    Failed,
    Finished,
    FromWorker,
    Interrupted,
    Note,
    Progress,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    TrialOrder,
)
from adarelu_sweep.signals import stop_signals
from adarelu_sweep.studies.schema import ExecutionSettings
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.crew import Crew
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.patience import OutOfPatienceError, Patience
from adarelu_sweep.supervising.sharing import Sharing
from adarelu_sweep.supervising.snapshots import RUN_STATUS, attempt_tags, result_of, snapshot_of
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.snapshot import RunStatus
from adarelu_sweep.training.history import TRACEBACK, EpochRecord
from adarelu_sweep.wording import count

_STOP_PATIENCE = 4.0  # seconds for the step in hand, before a worker is killed
_TICK = 1.0  # seconds, the longest wait at once
_SUSPENDED = 0.5  # seconds; a wait that much longer than asked for is no wait
_HEARTBEATS = 4  # signs of progress within the time after which a worker counts as silent
_LONGEST_HEARTBEAT = 10.0  # seconds


@dataclass(frozen=True)
class Signalled:
    """The user, or the system, asks to stop."""

    number: int


SupervisorInbox = SimpleQueue[Said | Gone | Signalled]


@dataclass(frozen=True)
class Ending:
    """How a supervisor's run ended."""

    state: Literal["complete", "failed", "interrupted"]
    signal: int | None = None
    at_once: bool = False
    """Whether it was asked to stop more than once."""


class Supervisor:
    """Runs what is left of a study on the given slots.

    Args:
        agenda: The study's trials, and what is next.
        launcher: Starts workers; its events arrive in ``inbox``.
        inbox: Where everything arrives that the supervisor reacts to.
        slots: Where workers may run.
        delivery: Brings the tracker up to date in the background.
        display: Shows progress.
        data_folder: Where the workers find data sets.
        execution: When to retry, and what to keep.
        patience: Waits while there is no room to write.
    """

    def __init__(
        self,
        agenda: Agenda,
        launcher: Launcher,
        inbox: SupervisorInbox,
        slots: Sequence[Slot],
        delivery: Delivery,
        display: Display,
        data_folder: Path,
        execution: ExecutionSettings,
        patience: Patience,
    ) -> None:
        self._agenda = agenda
        self._crew = Crew(launcher, slots, execution.stall_timeout)
        self._inbox = inbox
        self._delivery = delivery
        self._display = display
        self._data_folder = data_folder
        self._execution = execution
        self._silence = f"made no progress for {execution.stall_timeout:g} s and was killed"
        self._patience = patience
        self._jobs: dict[Worker, Job] = {}
        self._sharing = Sharing(agenda, self._crew, self._jobs)
        self._signal: int | None = None
        self._at_once = False
        self._kill_at = float("inf")

    def run(self) -> Ending:
        """Train until nothing is left or somebody asks to stop; the books agree afterwards."""
        with stop_signals(self._on_signal):
            self._patience.say = self._display.say
            try:
                self._catch_up()
                self._show_counts()
                self._staff()
                while len(self._crew):
                    event = self._next_event()
                    began = time.monotonic()
                    self._react(event)
                    self._crew.excuse(time.monotonic() - began)
            except OutOfPatienceError:
                self._take_note_of_signals()  # the next resume repairs what the books lack
            finally:
                self._crew.close()
                self._take_note_of_signals()
                with suppress(OutOfPatienceError):
                    for worker in list(self._jobs):
                        self._hand_back(worker)
                self._patience.say = None
        if self._signal is not None:
            return Ending("interrupted", self._signal, self._at_once)
        return Ending("failed" if self._agenda.has_failed() else "complete")

    def _catch_up(self) -> None:
        """Post the trials whose runs an earlier supervisor left behind their state."""
        for job in self._agenda.jobs():
            status = RUN_STATUS[job.trial.state]
            if not Delivered.is_settled(job.folder, status):
                self._post(job, status)

    # What arrives

    def _on_signal(self, number: int) -> None:
        """Take a signal to the loop; called within its handler, where SimpleQueue may be used."""
        self._patience.exhausted = True
        self._inbox.put(Signalled(number))

    def _react(self, event: Said | Gone | Signalled | None) -> None:
        if event is None:
            self._on_silence()
        elif isinstance(event, Signalled):
            self._stop(event.number)
        elif isinstance(event, Gone):
            if event.worker in self._crew:
                self._on_gone(event)
        elif event.worker in self._crew:
            if event.worker in self._jobs:
                self._crew.heard(event.worker)
            self._on_message(event.worker, event.message)

    def _next_event(self) -> Said | Gone | Signalled | None:
        """Wait for the next event; None when a stop, or a worker's silence, has lasted too long.

        However much the others have to say.
        """
        event = None
        while event is None and (left := self._time_left()) > 0:
            began = time.monotonic()
            with suppress(Empty):
                event = self._inbox.get(timeout=min(left, _TICK))
            # Who was suspended has not heard what was said to it meanwhile.
            if (suspended := time.monotonic() - began - _TICK) > _SUSPENDED:
                self._crew.excuse(suspended)
        return event

    def _time_left(self) -> float:
        """Return the seconds until a stop, or a worker's silence, has lasted too long."""
        return min(self._kill_at, self._crew.deadline()) - time.monotonic()

    def _on_silence(self) -> None:
        if time.monotonic() >= self._kill_at:
            self._kill_all()
        for worker in self._crew.silent():
            if not self._crew.kill(worker, self._silence):
                self._on_gone(Gone(worker, "cannot be killed"))

    def _on_message(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                self._crew.ready(worker, message)
                self._dispatch(worker)
            case Started():
                self._on_started(worker, message)
            case Progress():
                pass  # it was heard
            case EpochDone():
                self._on_epoch(worker, message)
            case Note():
                self._display.say(f"{self._jobs[worker].cell.key}: {message.text}")
            case Finished():
                self._on_finished(worker, message)
            case Interrupted():
                self._on_interrupted(worker, message)
            case Failed():
                self._on_failed(worker, message)

    def _on_started(self, worker: Worker, message: Started) -> None:
        job = self._jobs[worker]
        tags = attempt_tags(job, worker.slot, self._crew.about(worker), message.pairing)
        job.trial = job.book.describe(job.trial, tags)
        self._post(job, "RUNNING")
        self._display.started(worker.slot, job.cell.key, len(message.history.epochs))
        for note in message.notes:
            self._display.say(f"{job.cell.key}: {note}")
        for record in message.history.epochs:  # what was reported before a kill is not known
            self._report(job, record)
        if message.awaits_decision:
            self._decide(worker, job)

    def _on_epoch(self, worker: Worker, message: EpochDone) -> None:
        job = self._jobs[worker]
        self._report(job, message.record)
        if message.awaits_decision:
            self._decide(worker, job)
        self._post(job, "RUNNING")
        self._display.epoch(worker.slot, job.cell.key, message.record)

    def _report(self, job: Job, record: EpochRecord) -> None:
        accuracy = record.metrics[f"{job.cell.settings.measured_on}/accuracy"]
        job.book.report(job.trial, record.epoch, accuracy)

    def _decide(self, worker: Worker, job: Job) -> None:
        """Answer a worker that waits to be told whether its trial goes on."""
        prune = job.search is not None and job.search.should_prune(job.trial)
        worker.send(Decision(prune=prune))

    def _on_finished(self, worker: Worker, message: Finished) -> None:
        job = self._jobs.pop(worker)
        result = result_of(message.history, job.cell.settings.measured_on)
        if message.history.outcome == "pruned":
            job.trial = job.book.prune(job.trial, result)
        else:
            job.trial = job.book.complete(job.trial, result)
        self._post(job, "FINISHED")
        self._show_counts()
        self._display.finished(worker.slot, job.cell.key, message.history)
        self._dispatch(worker)

    def _on_interrupted(self, worker: Worker, message: Interrupted) -> None:
        if message.leaving:
            self._on_left(worker)
        else:
            self._hand_back(worker)
            self._dispatch(worker)

    def _on_left(self, worker: Worker) -> None:
        """A worker was asked to go, as before its node is taken away: that is no loss."""
        if self._signal is None:
            key = self._jobs[worker].cell.key
            self._display.say(f"{key}: its worker was asked to go; it goes on in another")
        self._hand_back(worker)

    def _on_failed(self, worker: Worker, message: Failed) -> None:
        """An exception would come again: the trial failed, the others go on.

        Want of memory may not, if the trial has the device to itself.
        """
        job = self._jobs[worker]
        if message.cause == "memory" and job.alone_on is None:
            job.alone_on = worker.slot.device
            self._display.say(f"{job.cell.key}: {message.error}; it is tried again alone")
            self._hand_back(worker)
            return
        del self._jobs[worker]
        alone = "with the device to itself: " if message.cause == "memory" else ""
        self._give_up(job, alone + message.error, message.traceback)

    def _on_gone(self, event: Gone) -> None:
        worker = event.worker
        reason = self._crew.remove(worker, event.reason, counts=self._signal is None)
        if worker in self._jobs and event.in_order:
            self._on_left(worker)
        elif worker in self._jobs:
            self._on_lost(worker, reason)
        if self._crew.give_up(worker.slot):
            self._on_dead_slot(worker.slot, reason)
        self._fill()  # what it had in hand may be for one that waits

    def _on_lost(self, worker: Worker, reason: str) -> None:
        """A worker died with a trial in hand: it is taken up again from its checkpoint."""
        if self._signal is not None:
            self._hand_back(worker)
            return
        job = self._jobs[worker]
        job.trial = job.book.lose(job.trial)
        job.lost_in = worker.slot.index
        if job.trial.losses > self._execution.max_retries:
            del self._jobs[worker]
            error = f"its worker was lost {count(job.trial.losses, 'time')}; the last one {reason}"
            self._give_up(job, error, error)
        else:
            self._display.say(f"{job.cell.key}: its worker {reason}; it goes on in another")
            self._hand_back(worker)

    def _on_dead_slot(self, slot: Slot, reason: str) -> None:
        """Go on without a slot whose workers do not come up, as long as there is another."""
        logs = f"its log, worker-{slot.index}.log in the home's logs, says why"
        if not self._crew.slots:
            raise UserError(f"no worker comes up (the last one {reason}): {logs}")
        self._display.say(f"slot {slot.index} is given up: its worker {reason}; {logs}")
        if slot.device not in {left.device for left in self._crew.slots}:
            self._agenda.unreserve(slot.device)

    # What is done

    def _staff(self) -> None:
        """Start workers in vacant slots, as many as there are trials left."""
        for slot in self._crew.vacancies():
            if self._signal is None and self._sharing.needs(slot.device):
                self._patience.do(partial(self._crew.start, slot))

    def _dispatch(self, worker: Worker) -> None:
        """Give a worker the next trial; let it wait for one that may come, or else let it go."""
        self._crew.rest(worker)
        self._fill()

    def _fill(self) -> None:
        """Give those that wait what there is to do, let go who is not needed, replace who is."""
        for worker in self._crew.idle():
            if self._signal is None and (job := self._sharing.take(worker)) is not None:
                self._begin(worker, job)
        for worker in self._crew.idle():
            self._display.idle(worker.slot)
            if self._signal is not None or self._sharing.may_go(worker):
                self._crew.dismiss(worker)
        self._staff()

    def _begin(self, worker: Worker, job: Job) -> None:
        self._crew.engage(worker)
        self._jobs[worker] = job
        self._patience.do(partial(job.folder.mkdir, parents=True, exist_ok=True))
        order = TrialOrder(
            number=job.trial.number,
            settings=job.cell.settings,
            folder=str(job.folder),
            threads=job.trial.threads,
            keep=self._execution.keep,
            awaits_decision=job.search is not None and job.search.prunes,
        )
        heartbeat = min(self._execution.stall_timeout / _HEARTBEATS, _LONGEST_HEARTBEAT)
        task = Task(trials=[order], data_folder=str(self._data_folder), heartbeat=heartbeat)
        worker.send(task)
        self._show_counts()

    def _hand_back(self, worker: Worker) -> None:
        """Let a worker's unfinished trial wait, next in line."""
        job = self._jobs.pop(worker)
        self._agenda.put_back(job)
        self._post(job, "KILLED")  # until it runs again, in a moment or after a resume
        self._show_counts()

    def _give_up(self, job: Job, error: str, traceback: str) -> None:
        # First: nothing writes it for a trial that has failed.
        self._patience.do(partial(write_atomically, job.folder / TRACEBACK, traceback.encode()))
        job.trial = job.book.fail(job.trial, error)
        self._post(job, "FAILED")
        self._show_counts()
        self._display.say(f"{job.cell.key} failed: {error}")

    def _stop(self, number: int) -> None:
        """Finish the steps in hand at the first request, end at once at the second."""
        if self._signal is not None:
            self._at_once = True
            self._kill_all()
            return
        self._signal = number
        self._kill_at = time.monotonic() + _STOP_PATIENCE
        for worker in self._crew:
            worker.send(Stop() if worker in self._jobs else Quit())
        self._display.say("stopping after the step in hand; once more to stop at once")

    def _take_note_of_signals(self) -> None:
        """Heed the signals that came when nobody listened any more."""
        with suppress(Empty):
            while True:
                if isinstance(event := self._inbox.get_nowait(), Signalled):
                    self._stop(event.number)

    def _kill_all(self) -> None:
        self._kill_at = float("inf")
        for worker in self._crew:
            self._crew.kill(worker, "was killed")

    def _post(self, job: Job, status: RunStatus) -> None:
        self._delivery.post(snapshot_of(job, status))

    def _show_counts(self) -> None:
        self._display.counts(self._agenda.counts())
