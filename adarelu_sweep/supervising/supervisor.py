"""The supervisor: decides which trial is trained where, and alone writes the books of a study.

It is one loop over one inbox. What workers, launcher and signals have to say arrives there; what is
to be recorded goes to the ledger at once and to the tracker through the delivery's threads.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal

from adarelu_sweep.datasets.origin import Origin
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Event, Gone, Launcher, Offer, Placed, Slot, Worker
from adarelu_sweep.launching.messages import (
    Decision,
    EpochDone,
    Failed,
    Finished,
    FromWorker,
    Interrupted,
    Note,
    Progress,
    Ready,
    Started,
    Task,
    TrialOrder,
)
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.recording.databases import TakenError
from adarelu_sweep.recording.patience import OutOfPatienceError, Patience
from adarelu_sweep.signals import stop_signals
from adarelu_sweep.storing.marks import Fence
from adarelu_sweep.studies.schema import ExecutionSettings
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.bookkeeping import Bookkeeping
from adarelu_sweep.supervising.crew import Crew
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.hands import Hands
from adarelu_sweep.supervising.requests import StopRequests
from adarelu_sweep.supervising.sharing import Sharing
from adarelu_sweep.supervising.troubles import Troubles
from adarelu_sweep.tracking.delivery import Delivery

_TICK = 1.0  # seconds, the longest wait at once
_SUSPENDED = 0.5  # seconds; a wait that much longer than asked for is no wait
_HEARTBEATS = 4  # signs of progress within the time after which a worker counts as silent
_LONGEST_HEARTBEAT = 10.0  # seconds


@dataclass(frozen=True)
class Signalled:
    """The user, or the system, asks to stop."""

    number: int


SupervisorInbox = SimpleQueue[Event | Signalled]


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
        data_origin: Where the workers' data sets come from.
        execution: When to retry, and what to keep.
        packing: How many trials a worker may train at once.
        patience: Waits while there is no room to write.
        fence: What its workers ask before they write anything, where results lie outside the home.
    """

    def __init__(
        self,
        agenda: Agenda,
        launcher: Launcher,
        inbox: SupervisorInbox,
        slots: Sequence[Slot],
        delivery: Delivery,
        display: Display,
        data_origin: Origin,
        execution: ExecutionSettings,
        packing: Packing,
        patience: Patience,
        fence: Fence | None = None,
    ) -> None:
        self._agenda = agenda
        self._crew = Crew(launcher, slots, execution.stall_timeout)
        self._inbox = inbox
        self._display = display
        self._data_origin = data_origin
        self._execution = execution
        self._silence = f"made no progress for {execution.stall_timeout:g} s and was killed"
        self._patience = patience
        self._fence = fence
        self._hands = Hands()
        self._sharing = Sharing(agenda, self._crew, self._hands, packing)
        self._books = Bookkeeping(agenda, delivery, display, patience)
        self._troubles = Troubles(
            self._hands, self._books, packing, execution.max_retries, display.say
        )
        self._stop = StopRequests(self._crew, self._hands, display.say)

    def run(self) -> Ending:
        """Train until nothing is left or somebody asks to stop; the books agree afterwards."""
        with stop_signals(self._on_signal):
            self._patience.say = self._display.say
            try:
                self._books.catch_up()
                self._say_if_slotless()
                self._staff()
                while len(self._crew) or self._awaits_slots():
                    event = self._next_event()
                    began = time.monotonic()
                    self._react(event)
                    self._crew.excuse(time.monotonic() - began)
            except OutOfPatienceError:
                self._take_note_of_signals()  # the next resume repairs what the books lack
            except TakenError:
                self._hands.forget()  # nothing of it is this supervisor's to record any more
                raise
            finally:
                self._crew.close()
                self._take_note_of_signals()
                with suppress(OutOfPatienceError):
                    for worker in self._hands:
                        self._troubles.hand_back(worker)
                self._patience.say = None
        if self._stop:
            return Ending("interrupted", self._stop.signal, self._stop.at_once)
        return Ending("failed" if self._agenda.has_failed() else "complete")

    # What arrives

    def _on_signal(self, number: int) -> None:
        """Take a signal to the loop; called within its handler, where SimpleQueue may be used."""
        self._patience.exhausted = True
        self._inbox.put(Signalled(number))

    def _take_note_of_signals(self) -> None:
        """Heed the signals that came when nobody listened any more."""
        with suppress(Empty):
            while True:
                if isinstance(event := self._inbox.get_nowait(), Signalled):
                    self._stop.add(event.number)

    def _react(self, event: Event | Signalled | None) -> None:
        if event is None:
            self._on_silence()
        elif isinstance(event, Signalled):
            self._stop.add(event.number)
        elif isinstance(event, Offer):
            self._on_offer(event.slots)
        elif event.worker not in self._crew:
            pass  # it was given up
        elif isinstance(event, Gone):
            self._on_gone(event)
        elif isinstance(event, Placed):
            self._crew.placed(event.worker)
        else:
            if event.worker in self._hands:
                self._crew.heard(event.worker)
            self._on_message(event.worker, event.message)

    def _next_event(self) -> Event | Signalled | None:
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
        return min(self._stop.deadline, self._crew.deadline()) - time.monotonic()

    def _on_silence(self) -> None:
        self._stop.enforce()
        for worker in self._crew.silent():
            if not self._crew.kill(worker, self._silence):
                self._on_gone(Gone(worker, "cannot be killed"))

    def _on_message(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                self._crew.ready(worker, message)
                self._dispatch(worker)
            case Progress():
                pass  # it was heard
            case Failed():
                self._troubles.failed(worker, message)
            case _:
                job = self._hands.find(worker, message.trial)
                if job is not None:  # else it was taken back with the rest of its pack
                    self._on_trial(worker, job, message)

    def _on_trial(
        self,
        worker: Worker,
        job: Job,
        message: Started | EpochDone | Note | Finished | Interrupted,
    ) -> None:
        match message:
            case Started():
                self._books.started(job, worker.slot, self._crew.about(worker), message)
                if message.awaits_decision:
                    self._decide(worker, job)
            case EpochDone():
                self._books.measured(job, message.record)
                if message.awaits_decision:
                    self._decide(worker, job)
                self._books.trained(job, worker.slot, message.record)
            case Note():
                self._books.note(job, message.text)
            case Finished():
                self._hands.take_back(worker, job)
                self._books.finished(job, worker.slot, message.history)
                self._dispatch(worker)
            case Interrupted(superseded=True):
                name = self._agenda.study_name
                raise TakenError(
                    f"another supervisor has taken study {name!r}: "
                    f"'adarelu-sweep status {name}' says where it runs"
                )
            case Interrupted(leaving=True):
                self._on_left(worker)
            case Interrupted():
                self._hands.take_back(worker, job)
                self._books.hand_back(job)
                self._dispatch(worker)

    def _decide(self, worker: Worker, job: Job) -> None:
        """Answer a worker that waits to be told whether its trial goes on."""
        prune = job.search is not None and job.search.should_prune(job.trial)
        worker.send(Decision(prune=prune))

    def _on_left(self, worker: Worker) -> None:
        """A worker was asked to go, and says so, or is gone by now."""
        if self._stop:
            self._troubles.hand_back(worker)
        else:
            self._troubles.left(worker)

    def _on_gone(self, event: Gone) -> None:
        worker = event.worker
        reason = self._crew.remove(worker, event.reason, counts=not self._stop)
        if worker in self._hands:
            if event.in_order or self._stop:
                self._on_left(worker)
            else:
                self._troubles.lost(worker, reason)
        if self._crew.give_up(worker.slot):
            self._on_dead_slot(worker.slot, reason)
        self._fill()  # what it had in hand may be for one that waits

    def _on_dead_slot(self, slot: Slot, reason: str) -> None:
        """Go on without a slot whose workers do not come up, as long as there is another."""
        logs = f"worker-{slot.index}.log in the home's logs may say more"
        if not self._crew.slots:
            raise UserError(f"no worker comes up (the last one {reason}): {logs}")
        self._display.say(f"slot {slot.index} is given up: its worker {reason}; {logs}")

    def _on_offer(self, slots: list[Slot]) -> None:
        """Go on with the slots of the nodes that are there now."""
        before = self._crew.slots
        self._crew.offer(slots)
        for slot in (slot for slot in self._crew.slots if slot not in before):
            self._display.say(f"slot {slot.index} ({slot.name}) has come")
        for slot in (slot for slot in before if slot not in self._crew.slots):
            self._display.say(f"slot {slot.index} ({slot.name}) is gone with its node")
            self._display.lost(slot)
        self._say_if_slotless()
        self._fill()

    def _say_if_slotless(self) -> None:
        if not self._crew.slots and self._awaits_slots():
            self._display.say("there is no slot: waiting for nodes with room for one")

    def _awaits_slots(self) -> bool:
        """Return whether slots may come for what is left."""
        return self._crew.awaits_slots and not self._stop and self._agenda.left() > 0

    # What is done

    def _staff(self) -> None:
        """Start workers in vacant slots, as many as there are trials left."""
        if not self._agenda.left():
            return
        for slot in self._crew.vacancies():
            if not self._stop and self._sharing.needs(slot.device):
                self._patience.do(partial(self._crew.start, slot))

    def _dispatch(self, worker: Worker) -> None:
        """Give a worker that has done all it had in hand the next trials.

        It waits for some that may come, or else is let go.
        """
        if worker not in self._hands:
            self._crew.rest(worker)
            self._fill()

    def _fill(self) -> None:
        """Give those that wait what there is to do, let go who is not needed, replace who is."""
        # Who was to have a device alone that is gone, with its node or given up, takes any.
        if reserved := self._agenda.reserved():
            for device in reserved - {slot.device for slot in self._crew.slots}:
                self._agenda.unreserve(device)
        if self._agenda.waiting() and not self._stop:
            for worker in self._crew.idle():
                if jobs := self._sharing.take(worker):
                    self._begin(worker, jobs)
        for worker in self._crew.idle():
            self._display.idle(worker.slot)
            if self._stop or self._sharing.may_go(worker):
                self._crew.dismiss(worker)
        for worker in self._crew.unplaced():
            if self._stop or not self._sharing.needs_placed(worker):
                self._crew.dismiss(worker)
        self._staff()

    def _begin(self, worker: Worker, jobs: list[Job]) -> None:
        self._crew.engage(worker)
        self._hands.give(worker, jobs)
        for job in jobs:
            self._patience.do(partial(job.folder.mkdir, parents=True, exist_ok=True))
        heartbeat = min(self._execution.stall_timeout / _HEARTBEATS, _LONGEST_HEARTBEAT)
        orders = [self._order(job) for job in jobs]
        task = Task(
            trials=orders,
            data_origin=str(self._data_origin),
            heartbeat=heartbeat,
            fence=self._fence,
        )
        worker.send(task)
        self._display.given(worker.slot, [job.cell.key for job in jobs])
        self._books.show_counts()

    def _order(self, job: Job) -> TrialOrder:
        return TrialOrder(
            number=job.trial.number,
            settings=job.cell.settings,
            folder=str(job.results),
            threads=job.trial.threads,
            keep=self._execution.keep,
            awaits_decision=job.search is not None and job.search.prunes,
        )
