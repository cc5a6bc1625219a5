"""Training one trial: from its settings and its last checkpoint to its last epoch."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.files import write_atomically
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.checkpoint import load_checkpoint, save_checkpoint, save_model
from adarelu_sweep.training.device import device_metrics
from adarelu_sweep.training.evaluation import Evaluation, evaluate
from adarelu_sweep.training.history import CONFUSION_MATRIX, EpochRecord, History
from adarelu_sweep.training.inference import describe_model
from adarelu_sweep.training.optimizers import build_optimizer
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.schedule import learning_rate
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import batch_order, generator, seed_network_noise


class StopRequestedError(Exception):
    """Training was asked to stop; the epoch in progress is given up, the checkpoint stands."""


@dataclass(frozen=True)
class _TrainingSums:
    loss: float
    """Mean cross entropy over the epoch's images, each under the weights of its own step."""
    accuracy: float
    seconds: float


class Trial:
    """One attempt at a trial: the network on its device, and the history so far.

    Restores the last checkpoint in ``folder`` if there is one. The same settings give the same
    numbers to the last bit, however often the trial is interrupted, on the CPU of one machine with
    one number of threads.
    """

    def __init__(self, settings: TrialSettings, dataset: ResidentDataset, folder: Path) -> None:
        self.settings = settings
        self.dataset = dataset
        self.folder = folder
        training = settings.training
        self.precision = Precision.of(training)
        self.network: nn.Module = build_network(
            settings.network,
            settings.activation,
            dataset.in_channels,
            dataset.num_classes,
            generator(settings.seed, "initial weights"),
        ).to(dataset.device)
        self.network.to(memory_format=self.precision.memory_format)
        self.optimizer = build_optimizer(training.optimizer, self.network.parameters())
        self.history: History = load_checkpoint(folder, self.network, self.optimizer)

    def train(self, stop_requested: Callable[[], bool]) -> Iterator[EpochRecord]:
        """Train epoch by epoch to the outcome, yielding each record once its checkpoint is whole.

        Raises StopRequestedError after the step in hand once ``stop_requested`` says so.
        """
        epochs = self.settings.training.epochs
        while self.history.outcome is None:
            epoch = len(self.history.epochs)
            sums = self._train_epoch(epoch, stop_requested)
            test = self._evaluate()
            self.history.epochs.append(self._record(epoch, sums, test))
            if not (isfinite(sums.loss) and isfinite(test.loss)):
                self.history.outcome = "diverged"
            elif epoch + 1 == epochs:
                self.history.outcome = "complete"
            if self.history.outcome:
                self._keep_results(test)
            save_checkpoint(self.folder, self.network, self.optimizer, self.history)
            yield self.history.epochs[-1]

    def _train_epoch(self, epoch: int, stop_requested: Callable[[], bool]) -> _TrainingSums:
        training, seed, device = self.settings.training, self.settings.seed, self.dataset.device
        images = self.dataset.size("train")
        self._set_learning_rate(epoch)
        seed_network_noise(seed, epoch)
        order = batch_order(seed, epoch, images).to(device)
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        self.network.train()
        start = time.perf_counter()
        for indices in torch.split(order, training.batch_size):
            if stop_requested():
                raise StopRequestedError
            loss, hits = self._step(indices)
            loss_sum += loss * len(indices)
            correct += hits
        # The first reading waits for the device, so the time is that of the work.
        mean_loss = loss_sum.item() / images
        seconds = time.perf_counter() - start
        return _TrainingSums(mean_loss, 100 * int(correct.item()) / images, seconds)

    def _step(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Do one update; return the batch's mean loss and its hits, still on the device."""
        images, labels = self.dataset.batch("train", indices, self.precision.memory_format)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast(self.dataset.device):
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _set_learning_rate(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(epoch)

    def _learning_rate(self, epoch: int) -> float:
        training = self.settings.training
        base = float(training.optimizer.arguments["lr"])
        return learning_rate(training.schedule, base, epoch, training.epochs)

    def _evaluate(self) -> Evaluation:
        batch_size = self.settings.training.evaluation_batch_size
        return evaluate(self.network, self.dataset, "test", batch_size, self.precision)

    def _record(self, epoch: int, sums: _TrainingSums, test: Evaluation) -> EpochRecord:
        return EpochRecord(
            epoch=epoch + 1,
            timestamp=time.time_ns() // 1_000_000,
            metrics={
                "train/loss": sums.loss,
                "train/accuracy": sums.accuracy,
                "test/loss": test.loss,
                "test/accuracy": test.accuracy,
                "lr": self._learning_rate(epoch),
                "epoch_seconds": sums.seconds,
                "images_per_second": self.dataset.size("train") / sums.seconds,
                **device_metrics(self.dataset.device),
            },
        )

    def _keep_results(self, test: Evaluation) -> None:
        """Write what is kept of a trial, before the checkpoint says that it is finished."""
        rows = "\n".join(",".join(map(str, row)) for row in test.confusion.tolist())
        write_atomically(self.folder / CONFUSION_MATRIX, f"{rows}\n".encode())
        trial = {"trial": json.dumps(self.settings.flattened())}
        metadata = trial | describe_model(self.settings, self.dataset)
        save_model(self.folder, self.network, metadata)
