"""Running one task in a worker: the trials that it lists, one after the other."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Protocol

import torch

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.launching.messages import (
    EpochDone,
    Finished,
    FromWorker,
    Interrupted,
    Note,
    Progress,
    Started,
    Task,
    TrialOrder,
)
from adarelu_sweep.training.loop import StopRequestedError, Trial


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


class TaskRunner:
    """Runs tasks on one device and keeps the last data set loaded between them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dataset: ResidentDataset | None = None
        self._dataset_key: tuple[object, ...] = ()

    def run(self, task: Task, supervision: Supervision) -> None:
        """Train every trial of a task to its outcome, or until asked to stop."""
        for order in task.trials:
            if supervision.stop.is_set():
                supervision.send(_interrupted(order, supervision))
                continue
            self._run_trial(order, Path(task.data_folder), task.heartbeat, supervision)

    def _run_trial(
        self, order: TrialOrder, data_folder: Path, heartbeat: float, supervision: Supervision
    ) -> None:
        torch.set_num_threads(order.threads)
        torch.use_deterministic_algorithms(order.settings.training.deterministic)
        torch.backends.cudnn.benchmark = not order.settings.training.deterministic
        folder = Path(order.folder)
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(order.settings, self._load(order, data_folder), folder, order.keep)

        def awaits_decision() -> bool:
            undecided = trial.history.outcome is None and bool(trial.history.epochs)
            return order.awaits_decision and undecided

        number, send = order.number, supervision.send
        send(
            Started(
                trial=number,
                history=trial.history,
                pairing=trial.pairing,
                awaits_decision=awaits_decision(),
                notes=trial.notes,
            )
        )

        def say(text: str) -> None:
            send(Note(trial=number, text=text))

        if awaits_decision() and supervision.prune():
            trial.prune()
        try:
            stop_requested = _between_steps(supervision, heartbeat)
            for record in trial.train(stop_requested, say, one_by_one=order.awaits_decision):
                send(EpochDone(trial=number, record=record, awaits_decision=awaits_decision()))
                if awaits_decision() and supervision.prune():
                    trial.prune()
        except StopRequestedError:
            send(_interrupted(order, supervision))
        else:
            send(Finished(trial=number, history=trial.history))

    def _load(self, order: TrialOrder, data_folder: Path) -> ResidentDataset:
        settings = order.settings
        key = (settings.dataset, data_folder, settings.data)
        if self._dataset is None or key != self._dataset_key:
            self._dataset = None  # let the memory go before the next one is loaded
            self._dataset = ResidentDataset.load(
                settings.dataset,
                data_folder,
                self._device,
                settings.data.train_limit,
                settings.data.test_limit,
            )
            self._dataset_key = key
        return self._dataset


def _between_steps(supervision: Supervision, heartbeat: float) -> Callable[[], bool]:
    """Return what is asked between steps: whether to stop. Progress is told when it is time to."""
    told = time.monotonic()

    def stop_requested() -> bool:
        nonlocal told
        if (now := time.monotonic()) - told >= heartbeat:
            told = now
            supervision.send(Progress())
        return supervision.stop.is_set()

    return stop_requested


def _interrupted(order: TrialOrder, supervision: Supervision) -> Interrupted:
    return Interrupted(trial=order.number, leaving=supervision.leaving)
