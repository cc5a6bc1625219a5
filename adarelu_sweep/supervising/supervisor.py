"""The supervisor: decides which trial is trained where, and alone writes the books of a study.

It is one loop over one inbox. What workers, launcher and signals have to say arrives there; what is
to be recorded goes to the ledger at once and to the tracker through the delivery's threads.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Literal

from optuna.trial import TrialState

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
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    TrialOrder,
)
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.trials import LedgerTrial, TrialResult
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.training.history import TRACEBACK, EpochRecord, History

MAX_RETRIES = 3
"""How often a trial whose worker was lost is taken up again before it counts as failed."""

_STOP_PATIENCE = 7.0  # seconds for the step in hand, before a worker is killed
_START_ATTEMPTS = 3  # workers of a slot in a row that die before they are ready


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
    ) -> None:
        self._agenda = agenda
        self._launcher = launcher
        self._inbox = inbox
        self._slots = slots
        self._delivery = delivery
        self._display = display
        self._data_folder = data_folder
        self._workers: set[Worker] = set()
        self._idle: set[Worker] = set()
        self._jobs: dict[Worker, Job] = {}
        self._about: dict[Worker, Ready] = {}
        self._failed_starts: Counter[int] = Counter()
        self._signal: int | None = None
        self._kill_at = float("inf")

    def run(self) -> Ending:
        """Train until nothing is left or somebody asks to stop; the books agree afterwards."""
        self._catch_up()
        self._show_counts()
        with self._signals():
            try:
                for slot in self._slots[: self._agenda.left()]:
                    self._start_worker(slot)
                while self._workers:
                    self._react()
            finally:
                self._launcher.close()
                for worker in list(self._jobs):
                    self._hand_back(worker)
        if self._signal is not None:
            return Ending("interrupted", self._signal)
        return Ending("failed" if self._agenda.counts().failed else "complete")

    def _catch_up(self) -> None:
        """Post the trials whose runs an earlier supervisor left behind their state."""
        for job in self._agenda.jobs():
            status = _RUN_STATUS[job.trial.state]
            if not Delivered.is_settled(job.folder, status):
                self._post(job, status)

    # What arrives

    def _react(self) -> None:
        event = self._next_event()
        if event is None:
            self._kill_all()
        elif isinstance(event, Signalled):
            self._stop(event.number)
        elif isinstance(event, Gone):
            self._on_gone(event.worker, event.reason)
        elif event.worker in self._workers:
            self._on_message(event.worker, event.message)

    def _next_event(self) -> Said | Gone | Signalled | None:
        """Wait for the next event; None when a stop has lasted too long."""
        while (patience := self._kill_at - time.monotonic()) > 0:
            with suppress(Empty):
                return self._inbox.get(timeout=min(patience, 60))
        return None

    def _on_message(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                self._failed_starts[worker.slot.index] = 0
                self._about[worker] = message
                self._dispatch(worker)
            case Started():
                self._on_started(worker, message)
            case EpochDone():
                self._on_epoch(worker, message)
            case Note():
                self._display.say(f"{self._jobs[worker].cell.key}: {message.text}")
            case Finished():
                self._on_finished(worker, message)
            case Interrupted():
                self._hand_back(worker)
                self._dispatch(worker)
            case Failed():
                self._on_failed(worker, message)

    def _on_started(self, worker: Worker, message: Started) -> None:
        job = self._jobs[worker]
        job.trial = job.book.describe(job.trial, self._tags(worker, job, message.pairing))
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
        result = _result(message.history, job.cell.settings.measured_on)
        if message.history.outcome == "pruned":
            job.trial = job.book.prune(job.trial, result)
        else:
            job.trial = job.book.complete(job.trial, result)
        self._post(job, "FINISHED")
        self._show_counts()
        self._display.finished(worker.slot, job.cell.key, message.history)
        self._dispatch(worker)

    def _on_failed(self, worker: Worker, message: Failed) -> None:
        """An exception in the code would come again: the trial failed, the others go on."""
        job = self._jobs.pop(worker)
        self._give_up(job, message.error, message.traceback)

    def _on_gone(self, worker: Worker, reason: str) -> None:
        self._workers.discard(worker)
        self._idle.discard(worker)
        ready = self._about.pop(worker, None) is not None
        if worker in self._jobs:
            self._on_lost(worker, reason)
        if not ready and self._signal is None:
            self._failed_starts[worker.slot.index] += 1
        if self._signal is None and len(self._workers) < self._agenda.left():
            if self._failed_starts[worker.slot.index] < _START_ATTEMPTS:
                self._start_worker(worker.slot)
            else:
                self._on_dead_slot(worker.slot, reason)
        self._fill()  # what it had in hand may be for one that waits

    def _on_lost(self, worker: Worker, reason: str) -> None:
        """A worker died with a trial in hand: it is taken up again from its checkpoint."""
        if self._signal is not None:
            self._hand_back(worker)
            return
        job = self._jobs[worker]
        job.trial = job.book.lose(job.trial)
        if job.trial.losses > MAX_RETRIES:
            del self._jobs[worker]
            error = f"its worker was lost {job.trial.losses} times; the last one {reason}"
            self._give_up(job, error, error)
        else:
            self._display.say(f"{job.cell.key}: its worker {reason}; it goes on in another")
            self._hand_back(worker)

    def _on_dead_slot(self, slot: Slot, reason: str) -> None:
        """Go on without a slot whose workers do not come up, as long as there is another."""
        logs = f"its log, worker-{slot.index}.log in the home's logs, says why"
        if not self._workers:
            raise UserError(f"no worker comes up (the last one {reason}): {logs}")
        self._display.say(f"slot {slot.index} is given up: its worker {reason}; {logs}")

    # What is done

    def _start_worker(self, slot: Slot) -> None:
        self._workers.add(self._launcher.start(slot))

    def _dispatch(self, worker: Worker) -> None:
        """Give a worker the next trial; let it wait for one that may come, or else let it go."""
        self._idle.add(worker)
        self._fill()

    def _fill(self) -> None:
        """Give those that wait what there is to do."""
        while self._idle and self._signal is None:
            slot_order = sorted(self._idle, key=lambda worker: worker.slot.index)
            job = self._agenda.take(slot_order[0].slot.threads)
            if job is None:
                break
            self._begin(slot_order[0], job)
        for worker in list(self._idle):
            self._display.idle(worker.slot)
            if self._signal is not None or not self._jobs:
                self._idle.remove(worker)
                worker.send(Quit())

    def _begin(self, worker: Worker, job: Job) -> None:
        self._idle.remove(worker)
        self._jobs[worker] = job
        order = TrialOrder(
            number=job.trial.number,
            settings=job.cell.settings,
            folder=str(self._folder(job)),
            threads=job.trial.threads,
            awaits_decision=job.search is not None and job.search.prunes,
        )
        worker.send(Task(trials=[order], data_folder=str(self._data_folder)))
        self._show_counts()

    def _hand_back(self, worker: Worker) -> None:
        """Let a worker's unfinished trial wait, next in line."""
        job = self._jobs.pop(worker)
        self._agenda.put_back(job)
        self._post(job, "KILLED")  # until it runs again, in a moment or after a resume
        self._show_counts()

    def _give_up(self, job: Job, error: str, traceback: str) -> None:
        job.trial = job.book.fail(job.trial, error)
        write_atomically(self._folder(job) / TRACEBACK, traceback.encode())
        self._post(job, "FAILED")
        self._show_counts()
        self._display.say(f"{job.cell.key} failed: {error}")

    def _stop(self, number: int) -> None:
        """Finish the steps in hand at the first request, end at once at the second."""
        if self._signal is not None:
            self._kill_all()
            return
        self._signal = number
        self._kill_at = time.monotonic() + _STOP_PATIENCE
        self._display.say("stopping after the step in hand; once more to stop at once")
        for worker in self._workers:
            worker.send(Stop() if worker in self._jobs else Quit())

    def _kill_all(self) -> None:
        self._kill_at = float("inf")
        for worker in self._workers:
            worker.kill()

    def _post(self, job: Job, status: RunStatus) -> None:
        folder = self._folder(job)
        tags = dict(job.trial.tags)
        if status in {"FINISHED", "FAILED"}:
            tags["outcome"] = _outcome(job.trial)
        self._delivery.post(
            TrialSnapshot(
                job.key, job.book.name, job.trial.number, job.cell.settings, folder, status, tags
            )
        )

    def _folder(self, job: Job) -> Path:
        job.folder.mkdir(parents=True, exist_ok=True)
        return job.folder

    def _tags(self, worker: Worker, job: Job, pairing: dict[str, str]) -> dict[str, str]:
        about = self._about[worker]
        return {
            "attempts": str(job.trial.attempts),
            "threads": str(job.trial.threads),
            "host": about.host,
            "device": about.device,
            "slot": f"{worker.slot.index}: {worker.slot.name}",
            **{f"pairing.{name}": digest for name, digest in pairing.items()},
            **{f"version.{name}": version for name, version in about.versions.items()},
        }

    def _show_counts(self) -> None:
        self._display.counts(self._agenda.counts())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the signals that ask to stop into events while the loop runs."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self._inbox.put(Signalled(number))  # safe in a handler: SimpleQueue is reentrant

        numbers = set(_STOP_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started with nohup
            numbers.remove(signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is closed

_RUN_STATUS: dict[TrialState, RunStatus] = {
    TrialState.WAITING: "KILLED",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAIL: "FAILED",
}


def _result(history: History, split: str) -> TrialResult:
    last = history.epochs[-1].metrics
    loss = last[f"{split}/loss"]
    return TrialResult(
        accuracy=last[f"{split}/accuracy"],
        loss=loss if isfinite(loss) else None,
        epochs=len(history.epochs),
        diverged=history.outcome == "diverged",
    )


def _outcome(trial: LedgerTrial) -> str:
    if trial.result is None:
        return "failed"
    if trial.state is TrialState.PRUNED:
        return "pruned"
    return "diverged" if trial.result.diverged else "complete"
