"""A worker of a real sweep that trains epochs of the bare trainer, too: the peer in its process.

Two processes on the same machine train at paces that differ by a tenth, each at its own from its
start to its end. So that what is compared differs in nothing else, the bare trainer has the process
of the worker: after every second epoch of its trial, once all that follows from that one is done.
"""

import os
import time
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from adarelu_sweep.launching.messages import EpochDone, FromWorker
from adarelu_sweep.launching.worker import Channel, main
from adarelu_sweep.training.settings import TrialSettings

ORDERS = "ADARELU_BENCHMARK_ALTERNATING"
"""The environment variable with the orders, as JSON."""

_PAUSE = 2.0  # seconds for the checkpoint, the supervisor and MLflow's server


class Orders(BaseModel):
    """What is to be measured, and where that goes."""

    settings: TrialSettings
    data_dir: Path
    rounds: int
    results: Path
    """A file: for every round the seconds of an epoch in the sweep, and of a bare one."""


class AlternatingChannel(Channel):
    """The line to the supervisor; between two epochs it may train one of the bare trainer."""

    def __init__(self, receiving: BinaryIO, sending: BinaryIO) -> None:
        super().__init__(receiving, sending)
        self._orders = Orders.model_validate_json(os.environ[ORDERS])
        self._left = self._orders.rounds
        self._bare: BareTrainer | None = None
        self._began: float | None = None
        """When the epoch began that is measured; None while none is."""

    def send(self, message: FromWorker) -> None:
        """Send a message; what says that an epoch is done is sent between two others."""
        super().send(message)
        if isinstance(message, EpochDone) and self._left:
            self._between_epochs(time.perf_counter())

    def _between_epochs(self, now: float) -> None:
        if self._bare is None:
            self._bare = BareTrainer(self._orders)
            self._bare.epoch()  # libraries make what they keep
        if self._began is None:
            self._began = time.perf_counter()
            return
        swept, self._began = now - self._began, None
        time.sleep(_PAUSE)
        start = time.perf_counter()
        self._bare.epoch()
        with self._orders.results.open("a") as file:
            file.write(f"{swept} {time.perf_counter() - start}\n")
        self._left -= 1


class BareTrainer:
    """Trains and evaluates the network of a trial, and nothing else."""

    def __init__(self, orders: Orders) -> None:
        from adarelu_sweep.datasets.resident import ResidentDataset
        from adarelu_sweep.training.device import training_device
        from adarelu_sweep.training.lane import Lane

        training = orders.settings.training.model_copy(update={"probes": False})
        self._settings = orders.settings.model_copy(update={"training": training})
        data = self._settings.data
        self._dataset = ResidentDataset.load(
            self._settings.dataset,
            orders.data_dir,
            training_device(),
            data.train_limit,
            data.test_limit,
        )
        self._lane = Lane(self._settings, self._dataset)
        self._epochs = 0

    def epoch(self) -> None:
        """Train an epoch and evaluate the network once."""
        from adarelu_sweep.training.repeating import finish
        from adarelu_sweep.training.streams import batch_order

        rate = float(self._settings.training.optimizer.arguments["lr"])
        order = batch_order(self._settings.seed, self._epochs, self._dataset.size("train"))
        with self._lane.turn():
            finish(self._lane.train_epoch(order, rate, None, lambda: None))
            finish(self._lane.evaluate(lambda: None))
        self._epochs += 1


if __name__ == "__main__":
    main(AlternatingChannel)
