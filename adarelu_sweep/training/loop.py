"""Training one trial: from its settings and its last checkpoint to its last epoch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.files import write_atomically
from adarelu_sweep.networks.digest import weight_digest
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.augmentation import Augmentation, augmentation
from adarelu_sweep.training.batch_sizes import accuracy_by_batch_size, is_batch_dependent
from adarelu_sweep.training.checkpoint import load_checkpoint, save_checkpoint, save_outcome
from adarelu_sweep.training.device import device_metrics
from adarelu_sweep.training.evaluation import Evaluation, evaluate
from adarelu_sweep.training.history import CONFUSION_MATRIX, EpochRecord, History, Keep, Outcome
from adarelu_sweep.training.keeping import KeptModel
from adarelu_sweep.training.optimizers import build_optimizer
from adarelu_sweep.training.patience import PatientWriter
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.probes import LayerProbes
from adarelu_sweep.training.schedule import learning_rate
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import (
    batch_order,
    digest,
    generator,
    seed_network_noise,
    validation_split,
)


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

    Restores the newest whole checkpoint in ``folder`` if there is one. The same settings give the
    same numbers to the last bit, however often the trial is interrupted, on the CPU of one machine
    with one number of threads. ``keep`` says which weights stay in the folder at the end.

    Attributes:
        notes: What is to be told of the checkpoint: that a damaged one was not used.
        pairing: Digests of what trials that differ only in the activation share: the initial
            weights, the first epoch's batch order and augmentation draws, the validation split.
    """

    def __init__(
        self,
        settings: TrialSettings,
        dataset: ResidentDataset,
        folder: Path,
        keep: Keep = "last",
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.pairing: dict[str, str] = {}
        self.dataset = self._with_validation(dataset)
        training = settings.training
        self.precision = Precision.of(training)
        self.network: nn.Module = build_network(
            settings.network,
            settings.activation,
            dataset.in_channels,
            dataset.num_classes,
            generator(settings.seed, "initial weights"),
        ).to(dataset.device)
        self._note_pairing()
        self._layers = activation_layers(self.network)
        self._probes = LayerProbes(self._layers if training.probes else {})
        self.network.to(memory_format=self.precision.memory_format)
        self.optimizer = build_optimizer(training.optimizer, self.network)
        self.history: History
        self.notes: list[str]
        self.history, self.notes = load_checkpoint(folder, self.network, self.optimizer, settings)
        self._ended = self.history.outcome is not None
        self._stop_requested: Callable[[], bool] = lambda: False
        self._model = KeptModel(keep, folder, settings, self.dataset)

    def _with_validation(self, dataset: ResidentDataset) -> ResidentDataset:
        fraction = self.settings.validation_fraction
        if fraction is None:
            return dataset
        held_out = validation_split(self.settings.seed, dataset.size("train"), fraction)
        self.pairing["validation_split"] = digest(held_out)
        return dataset.hold_out(held_out)

    def _note_pairing(self) -> None:
        images = self.dataset.size("train")
        self.pairing["initial_weights"] = weight_digest(self.network)
        self.pairing["batch_order"] = digest(batch_order(self.settings.seed, 0, images))
        if draws := self._augmentation(0):
            self.pairing["augmentation"] = draws.digest()

    def train(
        self,
        stop_requested: Callable[[], bool],
        say: Callable[[str], None] = lambda _: None,
        *,
        one_by_one: bool = False,
    ) -> Iterator[EpochRecord]:
        """Train epoch by epoch to the outcome, yielding each record once its checkpoint is whole.

        Where the disk is full, training goes on and the records come once there is room. With
        ``one_by_one`` it waits for that after every epoch, as it always does after the last.

        Raises StopRequestedError after the step in hand once ``stop_requested`` says so.
        """
        self._stop_requested = stop_requested
        writer = PatientWriter(stop_requested, say)
        epochs = self.settings.training.epochs
        unsaved: list[EpochRecord] = []
        if self.history.epochs and not self._ended:  # its best, if what was kept is lost
            self._model.offer(self.network, self.history.epochs[-1], last=False)
        while self.history.outcome is None:
            epoch = len(self.history.epochs)
            sums = self._train_epoch(epoch)
            measured = self._evaluate()
            outcome: Outcome | None = "complete" if epoch + 1 == epochs else None
            if not (isfinite(sums.loss) and isfinite(measured.loss)):
                outcome = "diverged"
            last = outcome is not None
            record = self._record(epoch, sums, measured, last=last)
            self.history.epochs.append(record)
            self.history.outcome = outcome
            unsaved.append(record)
            self._model.offer(self.network, record, last=last)
            save = partial(self._end, measured) if last else self._save
            if writer.write(save, wait=last or one_by_one):
                yield from unsaved
                unsaved = []
            elif last or one_by_one:
                raise StopRequestedError
        if not self._ended:  # pruned
            self._model.offer(self.network, self.history.epochs[-1], last=True)
            if not writer.write(self._end, wait=True):
                raise StopRequestedError

    def prune(self) -> None:
        """Let ``train`` end the trial after the epochs it has: its outcome is "pruned"."""
        self.history.outcome = "pruned"

    def _save(self) -> None:
        """Write what a later attempt goes on from."""
        self._model.write()
        save_checkpoint(self.folder, self.network, self.optimizer, self.history)

    def _end(self, measured: Evaluation | None = None) -> None:
        """Write what is kept of the trial, and last of all that it is finished."""
        if measured is not None:
            rows = "\n".join(",".join(map(str, row)) for row in measured.confusion.tolist())
            write_atomically(self.folder / CONFUSION_MATRIX, f"{rows}\n".encode())
        self._model.write()
        self._model.tidy()
        save_outcome(self.folder, self.history)
        self._ended = True

    def _train_epoch(self, epoch: int) -> _TrainingSums:
        training, seed, device = self.settings.training, self.settings.seed, self.dataset.device
        images = self.dataset.size("train")
        self._set_learning_rate(epoch)
        seed_network_noise(seed, epoch)
        order = batch_order(seed, epoch, images).to(device)
        augment = self._augmentation(epoch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        self.network.train()
        start = time.perf_counter()
        with self._probes.training():
            for indices in torch.split(order, training.batch_size):
                self._check_stop()
                loss, hits = self._step(indices, augment)
                loss_sum += loss * len(indices)
                correct += hits
        # The first reading waits for the device, so the time is that of the work.
        mean_loss = loss_sum.item() / images
        seconds = time.perf_counter() - start
        return _TrainingSums(mean_loss, 100 * int(correct.item()) / images, seconds)

    def _augmentation(self, epoch: int) -> Augmentation | None:
        return augmentation(
            self.settings.training.augmentation,
            self.settings.seed,
            epoch,
            self.dataset.size("train"),
            self.dataset.device,
        )

    def _step(self, indices: Tensor, augment: Augmentation | None) -> tuple[Tensor, Tensor]:
        """Do one update; return the batch's mean loss and its hits, still on the device."""
        images, labels = self.dataset.batch("train", indices, self.precision.memory_format, augment)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast(self.dataset.device):
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _check_stop(self) -> None:
        """Raise StopRequestedError if training is to stop; done before every batch."""
        if self._stop_requested():
            raise StopRequestedError

    def _set_learning_rate(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(epoch)

    def _learning_rate(self, epoch: int) -> float:
        training = self.settings.training
        base = float(training.optimizer.arguments["lr"])
        return learning_rate(training.schedule, base, epoch, training.epochs)

    def _evaluate(self) -> Evaluation:
        split = self.settings.measured_on
        batch_size = self.settings.training.evaluation_batch_size
        with self._probes.evaluation():
            return evaluate(
                self.network,
                self.dataset,
                split,
                batch_size,
                self.precision,
                before_batch=self._check_stop,
            )

    def _record(
        self, epoch: int, sums: _TrainingSums, measured: Evaluation, *, last: bool
    ) -> EpochRecord:
        split = self.settings.measured_on
        return EpochRecord(
            epoch=epoch + 1,
            timestamp=time.time_ns() // 1_000_000,
            metrics={
                "train/loss": sums.loss,
                "train/accuracy": sums.accuracy,
                f"{split}/loss": measured.loss,
                f"{split}/accuracy": measured.accuracy,
                "lr": self._learning_rate(epoch),
                "epoch_seconds": sums.seconds,
                "images_per_second": self.dataset.size("train") / sums.seconds,
                **device_metrics(self.dataset.device),
                **(self._accuracy_by_batch_size(measured) if last else {}),
            },
            probes=self._probes.read(),
        )

    def _accuracy_by_batch_size(self, measured: Evaluation) -> dict[str, float]:
        """Measure at the end what depends on the size of the batches, if anything does."""
        layers = self._layers.values()
        on_test = self.settings.measured_on == "test"
        if not (on_test and is_batch_dependent(layers)):
            return {}
        training = self.settings.training
        known = {training.evaluation_batch_size: measured.accuracy}
        accuracies = accuracy_by_batch_size(
            self.network,
            layers,
            self.dataset,
            training.batch_size,
            self.precision,
            known,
            self._check_stop,
        )
        return {f"test/accuracy_batch_{size}": value for size, value in accuracies.items()}
