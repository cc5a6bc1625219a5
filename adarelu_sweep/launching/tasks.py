"""Running one task in a worker: a trial, or a pack of trials."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Protocol, TypeVar

import torch

from adarelu_sweep.datasets.origin import at_hand
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.launching.guard import Guard
from adarelu_sweep.launching.messages import (
    EpochDone,
    Failed,
    Finished,
    FromWorker,
    Interrupted,
    Note,
    Progress,
    Started,
    Task,
    TrialOrder,
)
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import place_at
from adarelu_sweep.storing.waiting import awaited
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.memory import give_back, is_out_of_memory, is_scarce, memory_of
from adarelu_sweep.training.pack import Pack, PackError
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.stopping import StopRequestedError

_PAUSE = 1.0  # seconds between two attempts at what a store has for a trial
_SUPERSEDED = "another supervisor has taken the study: nothing more of it is written here"

T = TypeVar("T")


class Supervision(Protocol):
    """The supervisor, as a task sees it."""

    stop: Event
    """Set when training is to stop after the step in hand."""
    leaving: bool
    """Whether this worker is to go, rather than to wait for another task."""

    def send(self, message: FromWorker) -> None:
        """Say something."""

    def prune(self) -> bool:
        """Wait for the decision about a trial; False when asked to stop."""

    def leave(self) -> None:
        """Have this worker go, rather than wait for another task."""


class TrialError(Exception):
    """The code of one trial of a task raised an exception, which is the cause."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class TaskRunner:
    """Runs tasks on one device, and keeps from one to the next what the next may use again.

    That is the data set, and the lanes of the trials that are over.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dataset: ResidentDataset | None = None
        self._dataset_key: tuple[object, ...] = ()
        self._free: list[Lane] = []

    def run(self, task: Task, supervision: Supervision) -> None:
        """Train the trials of a task to their outcomes, or until asked to stop.

        Raises TrialError where it is known which trial of a pack an exception belongs to.
        """
        self._prepare(task.trials[0])
        unfinished = [order.number for order in task.trials]
        guard = Guard(task.fence)
        train = self._train_pack if len(task.trials) > 1 else self._train_alone
        try:
            if supervision.stop.is_set():
                raise StopRequestedError
            train(task, supervision, unfinished, guard)
        except StopRequestedError:
            if guard.superseded:
                print(_SUPERSEDED, flush=True)
                supervision.send(Note(trial=unfinished[0], text=_SUPERSEDED))
                supervision.leave()
            how = {"leaving": supervision.leaving, "superseded": guard.superseded}
            for number in unfinished:
                supervision.send(Interrupted(trial=number, **how))

    def _prepare(self, order: TrialOrder) -> None:
        """Set the process up as the trials of a task want it, all of them alike."""
        deterministic = order.settings.training.deterministic
        torch.set_num_threads(order.threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic

    def _train_alone(
        self, task: Task, supervision: Supervision, unfinished: list[int], guard: Guard
    ) -> None:
        (order,) = task.trials
        number, send = order.number, supervision.send
        trial = self._build(order, task, supervision, guard)

        def awaits_decision() -> bool:
            undecided = trial.history.outcome is None and bool(trial.history.epochs)
            return order.awaits_decision and undecided

        send(_started(number, trial, awaits_decision()))

        def say(text: str) -> None:
            send(Note(trial=number, text=text))

        if awaits_decision() and supervision.prune():
            trial.prune()
        stop_requested = _between_steps(supervision, task.heartbeat, guard)
        for record in trial.train(stop_requested, say, one_by_one=order.awaits_decision):
            send(EpochDone(trial=number, record=record, awaits_decision=awaits_decision()))
            if awaits_decision() and supervision.prune():
                trial.prune()
        unfinished.clear()
        self._keep(trial.lane)
        send(Finished(trial=number, history=trial.history))

    def _train_pack(
        self, task: Task, supervision: Supervision, unfinished: list[int], guard: Guard
    ) -> None:
        send = supervision.send
        numbers: dict[Trial, int] = {}
        for order in task.trials:
            if supervision.stop.is_set():
                raise StopRequestedError
            try:
                trial = self._build(order, task, supervision, guard)
            except StopRequestedError:
                raise
            except Exception as error:
                raise TrialError(order.number) from error
            numbers[trial] = order.number
            send(_started(order.number, trial))

        def say(trial: Trial, text: str) -> None:
            send(Note(trial=numbers[trial], text=text))

        stop_requested = _between_steps(supervision, task.heartbeat, guard)
        try:
            for trial, record in Pack(list(numbers)).train(stop_requested, say):
                number = numbers[trial]
                if record is not None:
                    send(EpochDone(trial=number, record=record))
                else:
                    unfinished.remove(number)
                    self._keep(trial.lane)
                    send(Finished(trial=number, history=trial.history))
        except PackError as error:
            raise TrialError(numbers[error.trial]) from error.__cause__

    def _build(
        self, order: TrialOrder, task: Task, supervision: Supervision, guard: Guard
    ) -> Trial:
        """Take a trial up; as long as the store is away that may have what it needs, wait."""
        stop_requested = _between_steps(supervision, task.heartbeat, guard)

        def go_on() -> None:
            if stop_requested():
                raise StopRequestedError

        def once_there(what: str, take: Callable[[], T]) -> T:
            told = False
            while True:
                try:
                    return take()
                except StorageError as error:
                    if not told:
                        text = f"it waits for {what} ({error})"
                        supervision.send(Note(trial=order.number, text=text))
                        told = True
                go_on()
                time.sleep(_PAUSE)

        dataset = once_there("its data set", lambda: self._load(order, task.data_origin, go_on))
        lane = self._serving(order.settings, dataset)
        return once_there(
            "what may be stored of it",
            lambda: _taken_up(order, dataset, lane, guard, stop_requested),
        )

    def _keep(self, lane: Lane) -> None:
        """Keep the lane of a trial that is over, if it may serve another."""
        if self._dataset is not None and lane.serves(lane.settings, self._dataset):
            self._free.append(lane)

    def _serving(self, settings: TrialSettings, dataset: ResidentDataset) -> Lane | None:
        """Return a lane that serves a trial; if there is none, see that there is room for one.

        Arms take turns, seed by seed, so those of the others stay as long as memory is plenty.
        """
        for position, lane in enumerate(self._free):
            if lane.serves(settings, dataset):
                return self._free.pop(position)
        if self._free and is_scarce(self._device):
            self._let_go()
        return None

    def _let_go(self) -> None:
        if self._free:
            self._free.clear()
            give_back(self._device)

    def _load(self, order: TrialOrder, origin: str, go_on: Callable[[], None]) -> ResidentDataset:
        settings = order.settings
        key = (settings.dataset, origin, settings.data)
        if self._dataset is None or key != self._dataset_key:
            self._dataset = None
            self._let_go()  # before more is asked for
            self._dataset = ResidentDataset.load(
                settings.dataset,
                _at_hand(settings.dataset, origin, go_on),
                self._device,
                settings.data.train_limit,
                settings.data.test_limit,
            )
            self._dataset_key = key
        return self._dataset


def _at_hand(name: str, origin: str, go_on: Callable[[], None]) -> Path:
    """Return where a data set is to be read, copied from its store if need be."""
    place = place_at(origin)
    if isinstance(place, Path):
        return at_hand(name, place, go_on)
    given_up = Event()

    def check() -> None:  # in a thread of its own, which says nothing to the supervisor
        if given_up.is_set():
            raise StopRequestedError

    try:
        return awaited(place, lambda: at_hand(name, place, check), go_on)
    finally:
        given_up.set()


def _taken_up(
    order: TrialOrder,
    dataset: ResidentDataset,
    lane: Lane | None,
    guard: Guard,
    stop_requested: Callable[[], bool],
) -> Trial:
    folder = place_at(order.folder)

    def check_stop() -> None:
        if stop_requested():
            raise StopRequestedError

    awaited(folder, guard, check_stop)
    try:
        guard.make(folder)
        return Trial(order.settings, dataset, folder, order.keep, lane, guard, stop_requested)
    finally:
        # What was not found is not there only if the place was there all the time.
        awaited(folder, guard, check_stop)


def failure(task: Task, raised: Exception, device: torch.device) -> Failed:
    """Return what is to be said of an exception that ended a task: what it was, and whose."""
    culprits = [order.number for order in task.trials]
    error: BaseException = raised
    if isinstance(raised, TrialError) and raised.__cause__ is not None:
        error = raised.__cause__
        if not is_out_of_memory(error):  # for that, all the others were needed, too
            culprits = [raised.number]
    said = "".join(traceback.format_exception_only(error)).strip()
    no_room = is_out_of_memory(error)
    return Failed(
        trials=culprits,
        cause="memory" if no_room else "exception",
        error=f"{said} ({memory_of(device)})" if no_room else said,
        traceback="".join(traceback.format_exception(error)),
    )


def _started(number: int, trial: Trial, awaits_decision: bool = False) -> Started:
    return Started(
        trial=number,
        history=trial.history,
        pairing=trial.pairing,
        awaits_decision=awaits_decision,
        notes=trial.notes,
    )


def _between_steps(supervision: Supervision, heartbeat: float, guard: Guard) -> Callable[[], bool]:
    """Return what is asked between steps: whether to stop. Progress is told when it is time to."""
    told = time.monotonic()

    def stop_requested() -> bool:
        nonlocal told
        if (now := time.monotonic()) - told >= heartbeat:
            told = now
            supervision.send(Progress())
        return supervision.stop.is_set() or guard.superseded

    return stop_requested
