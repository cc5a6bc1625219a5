"""Running one task in a worker: the trials that it lists, one after the other."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import torch

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.launching.messages import (
    EpochDone,
    Finished,
    FromWorker,
    Interrupted,
    Started,
    Task,
    TrialOrder,
)
from adarelu_sweep.training.loop import StopRequestedError, Trial


class TaskRunner:
    """Runs tasks on one device and keeps the last data set loaded between them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dataset: ResidentDataset | None = None
        self._dataset_key: tuple[object, ...] = ()

    def run(self, task: Task, send: Callable[[FromWorker], None], stop: Event) -> None:
        """Train every trial of a task to its outcome, or until asked to stop."""
        for order in task.trials:
            if stop.is_set():
                send(Interrupted(trial=order.number))
                continue
            self._run_trial(order, Path(task.data_folder), send, stop)

    def _run_trial(
        self, order: TrialOrder, data_folder: Path, send: Callable[[FromWorker], None], stop: Event
    ) -> None:
        torch.set_num_threads(order.threads)
        torch.use_deterministic_algorithms(order.settings.training.deterministic)
        torch.backends.cudnn.benchmark = not order.settings.training.deterministic
        folder = Path(order.folder)
        folder.mkdir(parents=True, exist_ok=True)
        trial = Trial(order.settings, self._load(order, data_folder), folder)
        send(Started(trial=order.number, history=trial.history, pairing=trial.pairing))
        try:
            for record in trial.train(stop.is_set):
                send(EpochDone(trial=order.number, record=record))
        except StopRequestedError:
            send(Interrupted(trial=order.number))
        else:
            send(Finished(trial=order.number, history=trial.history))

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
