"""The supervisor: decides which trial is trained where, and alone writes the books of a study.

It is one loop over one inbox. What workers, launcher and signals have to say arrives there; what is
to be recorded goes to the ledger at once and to the tracker through the delivery's threads.
"""

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
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
    EpochDone,
    Failed,
    Finished,
    FromWorker,
    Interrupted,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    TrialOrder,
)
from adarelu_sweep.studies.plan import Cell, cells
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.ledger import Counts, LedgerTrial, StudyLedger, TrialResult
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.training.history import TRACEBACK, History

MAX_RETRIES = 3
"""How often a trial whose worker was lost is taken up again before it counts as failed."""

_STOP_PATIENCE = 7.0  # seconds for the step in hand, before a worker is killed
_START_ATTEMPTS = 3  # workers of a slot in a row that die before they are ready

_OPEN = {TrialState.RUNNING, TrialState.WAITING}


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


@dataclass
class _Job:
    """A trial in the hands of a worker."""

    cell: Cell
    trial: LedgerTrial


class Supervisor:
    """Runs what is left of a study on the given slots.

    Args:
        ledger: The study's Optuna book.
        launcher: Starts workers; its events arrive in ``inbox``.
        inbox: Where everything arrives that the supervisor reacts to.
        slots: Where workers may run.
        delivery: Brings the tracker up to date in the background.
        display: Shows progress.
        trial_folder: Gives the folder of a trial by its number.
        data_folder: Where the workers find data sets.
    """

    def __init__(
        self,
        ledger: StudyLedger,
        launcher: Launcher,
        inbox: SupervisorInbox,
        slots: Sequence[Slot],
        delivery: Delivery,
        display: Display,
        trial_folder: Callable[[int], Path],
        data_folder: Path,
    ) -> None:
        self._ledger = ledger
        self._launcher = launcher
        self._inbox = inbox
        self._slots = slots
        self._delivery = delivery
        self._display = display
        self._trial_folder = trial_folder
        self._data_folder = data_folder
        self._cells = list(cells(ledger.record.study))
        self._trials: dict[str, LedgerTrial] = {}
        self._waiting: deque[Cell] = deque()
        self._workers: set[Worker] = set()
        self._jobs: dict[Worker, _Job] = {}
        self._about: dict[Worker, Ready] = {}
        self._failed_starts: Counter[int] = Counter()
        self._signal: int | None = None
        self._kill_at = float("inf")

    def run(self) -> Ending:
        """Train until nothing is left or somebody asks to stop; the books agree afterwards."""
        self._ledger.repair()
        self._trials = {trial.cell: trial for trial in self._ledger.trials()}
        self._catch_up()
        self._waiting.extend(cell for cell in self._cells if self._is_open(cell))
        self._show_counts()
        with self._signals():
            try:
                for slot in self._slots[: len(self._waiting)]:
                    self._start_worker(slot)
                while self._workers:
                    self._react()
            finally:
                self._launcher.close()
                for worker in list(self._jobs):
                    self._hand_back(worker)
        if self._signal is not None:
            return Ending("interrupted", self._signal)
        failed = any(trial.state is TrialState.FAIL for trial in self._trials.values())
        return Ending("failed" if failed else "complete")

    def _is_open(self, cell: Cell) -> bool:
        trial = self._trials.get(cell.key)
        return trial is None or trial.state in _OPEN

    def _catch_up(self) -> None:
        """Post the trials whose runs an earlier supervisor left behind their state."""
        for cell in self._cells:
            trial = self._trials.get(cell.key)
            if trial is None:
                continue
            status = _RUN_STATUS[trial.state]
            if not Delivered.is_settled(self._trial_folder(trial.number), status):
                self._post(_Job(cell, trial), status)

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
            case Finished():
                self._on_finished(worker, message)
            case Interrupted():
                self._hand_back(worker)
                self._dispatch(worker)
            case Failed():
                self._on_failed(worker, message)

    def _on_started(self, worker: Worker, message: Started) -> None:
        job = self._jobs[worker]
        job.trial = self._ledger.describe(job.trial, self._tags(worker, job, message.pairing))
        self._post(job, "RUNNING")
        self._display.started(worker.slot, job.cell.key, len(message.history.epochs))

    def _on_epoch(self, worker: Worker, message: EpochDone) -> None:
        job = self._jobs[worker]
        record = message.record
        self._ledger.report(job.trial, record.epoch, record.metrics["test/accuracy"])
        self._post(job, "RUNNING")
        self._display.epoch(worker.slot, job.cell.key, record)

    def _on_finished(self, worker: Worker, message: Finished) -> None:
        job = self._jobs.pop(worker)
        job.trial = self._ledger.complete(job.trial, _result(message.history))
        self._trials[job.cell.key] = job.trial
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
        ready = self._about.pop(worker, None) is not None
        if worker in self._jobs:
            self._on_lost(worker, reason)
        if not ready and self._signal is None:
            self._failed_starts[worker.slot.index] += 1
        if self._signal is None and self._waiting:
            if self._failed_starts[worker.slot.index] < _START_ATTEMPTS:
                self._start_worker(worker.slot)
            else:
                self._on_dead_slot(worker.slot, reason)

    def _on_lost(self, worker: Worker, reason: str) -> None:
        """A worker died with a trial in hand: it is taken up again from its checkpoint."""
        if self._signal is not None:
            self._hand_back(worker)
            return
        job = self._jobs[worker]
        job.trial = self._ledger.lose(job.trial)
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
        """Give a worker that waits the next trial, or let it go."""
        if self._signal is not None or not self._waiting:
            worker.send(Quit())
            self._display.idle(worker.slot)
            return
        cell = self._waiting.popleft()
        known = self._trials.get(cell.key)
        if known is None:
            trial = self._ledger.begin(cell, worker.slot.threads)
        else:
            trial = self._ledger.resume(known)
        self._trials[cell.key] = trial
        self._jobs[worker] = _Job(cell, trial)
        order = TrialOrder(
            number=trial.number,
            settings=cell.settings,
            folder=str(self._folder(self._jobs[worker])),
            threads=trial.threads,
        )
        worker.send(Task(trials=[order], data_folder=str(self._data_folder)))
        self._show_counts()

    def _hand_back(self, worker: Worker) -> None:
        """Let a worker's unfinished trial wait, next in line."""
        job = self._jobs.pop(worker)
        job.trial = self._ledger.hand_back(job.trial)
        self._trials[job.cell.key] = job.trial
        self._waiting.appendleft(job.cell)
        self._post(job, "KILLED")  # until it runs again, in a moment or after a resume
        self._show_counts()

    def _give_up(self, job: _Job, error: str, traceback: str) -> None:
        job.trial = self._ledger.fail(job.trial, error)
        self._trials[job.cell.key] = job.trial
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

    def _post(self, job: _Job, status: RunStatus) -> None:
        folder = self._folder(job)
        tags = dict(job.trial.tags)
        if status in {"FINISHED", "FAILED"}:
            tags["outcome"] = _outcome(job.trial)
        self._delivery.post(
            TrialSnapshot(str(job.trial.number), job.cell.settings, folder, status, tags)
        )

    def _folder(self, job: _Job) -> Path:
        folder = self._trial_folder(job.trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _tags(self, worker: Worker, job: _Job, pairing: dict[str, str]) -> dict[str, str]:
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
        self._display.counts(Counts.of(len(self._cells), self._trials.values()))

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


def _result(history: History) -> TrialResult:
    last = history.epochs[-1].metrics
    loss = last["test/loss"]
    return TrialResult(
        accuracy=last["test/accuracy"],
        loss=loss if isfinite(loss) else None,
        epochs=len(history.epochs),
        diverged=history.outcome == "diverged",
    )


def _outcome(trial: LedgerTrial) -> str:
    if trial.result is None:
        return "failed"
    return "diverged" if trial.result.diverged else "complete"
