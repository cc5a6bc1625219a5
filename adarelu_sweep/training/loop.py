"""Training one trial: from its settings and its last checkpoint to its last epoch."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from math import isfinite

import torch
from torch import nn

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.storing.places import Place, write_whole
from adarelu_sweep.training.augmentation import Augmentation, augmentation
from adarelu_sweep.training.batch_sizes import accuracy_by_batch_size, is_batch_dependent
from adarelu_sweep.training.checkpoint import Checkpoint, load_checkpoint, save_outcome
from adarelu_sweep.training.device import device_metrics
from adarelu_sweep.training.evaluation import Evaluation
from adarelu_sweep.training.history import CONFUSION_MATRIX, EpochRecord, History, Keep, Outcome
from adarelu_sweep.training.keeping import KeptModel
from adarelu_sweep.training.lane import Lane, TrainingSums
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.saving import Saver
from adarelu_sweep.training.schedule import learning_rate
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.stopping import StopRequestedError
from adarelu_sweep.training.streams import (
    batch_order,
    digest,
    seed_network_noise,
    validation_split,
)

OVER = object()
"""In place of a turn that a trial has no need of any more."""


class Trial:
    """One attempt at a trial: the network on its device, and the history so far.

    Restores the newest whole checkpoint in ``folder`` if there is one. The same settings give the
    same numbers to the last bit, however often the trial is interrupted and whoever takes turns
    with it, on the CPU of one machine with one number of threads.

    Args:
        settings: What is trained.
        dataset: On what.
        folder: Where its checkpoint is: a folder that is there, or a place in a store.
        keep: Which weights stay in the folder at the end.
        lane: One that serves it, of a trial that is over.
        guard: Called before anything is written; raises where it must not be, or not now.
        stop_requested: Asked while a store is waited for: whether to give up, with
            StopRequestedError, and as a sign that it waits.

    Attributes:
        notes: What is to be told of the checkpoint: that a damaged one was not used.
        pairing: Digests of what trials that differ only in the activation share: the initial
            weights, the first epoch's batch order and augmentation draws, the validation split.
    """

    def __init__(
        self,
        settings: TrialSettings,
        dataset: ResidentDataset,
        folder: Place,
        keep: Keep = "last",
        lane: Lane | None = None,
        guard: Callable[[], None] = lambda: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.pairing: dict[str, str] = {}
        self.dataset = self._with_validation(dataset)
        if lane is None:
            lane = Lane(settings, self.dataset)
        else:
            with lane.turn():
                lane.start_over(settings)
        self.lane = lane
        self._note_pairing()
        self._stop_requested = stop_requested
        self.history: History
        self.notes: list[str]
        with lane.turn():
            self.history, self.notes = load_checkpoint(
                folder, self.network, self.optimizer, settings, stop_requested
            )
        self._ended = self.history.outcome is not None
        self._guard = guard
        self._model = KeptModel(keep, folder, settings, self.dataset, self._check_stop)

    @property
    def network(self) -> nn.Module:
        """The network that is trained, on its device."""
        return self.lane.network

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What updates its weights."""
        return self.lane.optimizer

    @property
    def precision(self) -> Precision:
        """In which format it computes."""
        return self.lane.precision

    def _with_validation(self, dataset: ResidentDataset) -> ResidentDataset:
        fraction = self.settings.validation_fraction
        if fraction is None:
            return dataset
        held_out = validation_split(self.settings.seed, dataset.size("train"), fraction)
        self.pairing["validation_split"] = digest(held_out)
        return dataset.hold_out(held_out)

    def _note_pairing(self) -> None:
        images = self.dataset.size("train")
        self.pairing["initial_weights"] = self.lane.initial_digest
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

        That is written while the next epoch is trained. Where the disk is full, training goes on
        and the records come once there is room. With ``one_by_one`` it waits for its checkpoint
        after every epoch, as it always does after the last.

        Raises StopRequestedError after the step in hand once ``stop_requested`` says so.
        """
        turns = self.turns(stop_requested, say, one_by_one=one_by_one)
        while True:
            with self.lane.turn():
                record = next(turns, OVER)
            if record is OVER:
                return
            if isinstance(record, EpochRecord):
                yield record

    def turns(
        self,
        stop_requested: Callable[[], bool],
        say: Callable[[str], None] = lambda _: None,
        *,
        one_by_one: bool = False,
    ) -> Generator[EpochRecord | None, None, None]:
        """Train as ``train`` does, yielding None after every step, so that others have a turn.

        Each turn has to be taken in the context ``lane.turn()``.
        """
        self._stop_requested = stop_requested
        saver = Saver(stop_requested, say, self._guard)
        try:
            yield from self._to_the_outcome(saver, one_by_one)
        except Exception:  # what is on the disk is told, whatever ended the attempt
            with suppress(OSError):
                saver.wait()
            yield from saver.whole()
            raise
        finally:
            saver.close()

    def _to_the_outcome(self, saver: Saver, one_by_one: bool) -> Iterator[EpochRecord | None]:
        epochs = self.settings.training.epochs
        if self.history.epochs and not self._ended:  # its best, if what was kept is lost
            self._model.offer(self.network, self.history.epochs[-1], last=False)
        while self.history.outcome is None:
            epoch = len(self.history.epochs)
            seed_network_noise(self.settings.seed, epoch)
            sums = yield from saver.beside(
                self.lane.train_epoch(
                    batch_order(self.settings.seed, epoch, self.dataset.size("train")),
                    self._learning_rate(epoch),
                    self._augmentation(epoch),
                    self._check_stop,
                )
            )
            measured = yield from saver.beside(self.lane.evaluate(self._check_stop))
            outcome: Outcome | None = "complete" if epoch + 1 == epochs else None
            if not (isfinite(sums.loss) and isfinite(measured.loss)):
                outcome = "diverged"
            last = outcome is not None
            record = self._record(epoch, sums, measured, last=last)
            saver.wait()  # it may be writing the weights that are kept
            self.history.epochs.append(record)
            self.history.outcome = outcome
            self._model.offer(self.network, record, last=last)
            if last:
                saver.save_and_wait(partial(self._end, measured), record)
            elif one_by_one:
                saver.save_and_wait(self._save(), record)
            else:
                saver.save(self._save(), record)
            yield from saver.whole()
        if not self._ended:  # pruned
            self._model.offer(self.network, self.history.epochs[-1], last=True)
            saver.save_and_wait(self._end)

    def prune(self) -> None:
        """Let ``train`` end the trial after the epochs it has: its outcome is "pruned".

        For a trial that is trained ``one_by_one``, before it is or between two epochs.
        """
        self.history.outcome = "pruned"

    def _save(self) -> Callable[[], None]:
        """Return what writes, while training goes on, what a later attempt goes on from."""
        checkpoint = Checkpoint(self.network, self.optimizer, self.history)

        def write() -> None:
            self._model.write()
            checkpoint.write(self.folder)

        return write

    def _end(self, measured: Evaluation | None = None) -> None:
        """Write what is kept of the trial, and last of all that it is finished."""
        if measured is not None:
            rows = "\n".join(",".join(map(str, row)) for row in measured.confusion.tolist())
            write_whole(self.folder / CONFUSION_MATRIX, f"{rows}\n".encode())
        self._model.write()
        self._model.tidy()
        save_outcome(self.folder, self.history)
        self._ended = True

    def _augmentation(self, epoch: int) -> Augmentation | None:
        return augmentation(
            self.settings.training.augmentation,
            self.settings.seed,
            epoch,
            self.dataset.size("train"),
            self.dataset.device,
        )

    def _check_stop(self) -> None:
        """Raise StopRequestedError if training is to stop; done before every batch, and waiting."""
        if self._stop_requested():
            raise StopRequestedError

    def _learning_rate(self, epoch: int) -> float:
        training = self.settings.training
        base = float(training.optimizer.arguments["lr"])
        return learning_rate(training.schedule, base, epoch, training.epochs)

    def _record(
        self, epoch: int, sums: TrainingSums, measured: Evaluation, *, last: bool
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
            probes=self.lane.probes.read(),
        )

    def _accuracy_by_batch_size(self, measured: Evaluation) -> dict[str, float]:
        """Measure at the end what depends on the size of the batches, if anything does."""
        layers = self.lane.layers.values()
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
