"""What is timed: networks as the package trains them, alone or in a pack, and the plain loop."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch
from torch.utils.data import DataLoader, RandomSampler

from adarelu_sweep.benchmarking.plain_loop import PlainImages, train_epoch
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.augmentation import augmentation
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.optimizers import arguments_of
from adarelu_sweep.training.registry import OPTIMIZERS
from adarelu_sweep.training.settings import TrialSettings

_LEARNING_RATE = 0.001  # what is learned of noise does not matter, if only it stays finite
_OVER = object()


class Lanes:
    """Networks of one arm in training: one alone, or a pack of them that takes turns.

    Args:
        settings: A trial of the arm.
        dataset: What is trained and evaluated on.
    """

    def __init__(self, settings: TrialSettings, dataset: ResidentDataset) -> None:
        self._settings = settings
        self._dataset = dataset
        self._augment = augmentation(
            settings.training.augmentation, 0, 0, dataset.size("train"), dataset.device
        )
        self._lanes: list[Lane] = []
        self.grow(1)

    def grow(self, size: int) -> None:
        """Build more networks, each with a seed of its own, until there are so many."""
        for seed in range(len(self._lanes), size):
            seeded = self._settings.model_copy(update={"seed": seed})
            self._lanes.append(Lane(seeded, self._dataset))

    def train(self, batches: int, size: int = 1) -> float:
        """Train the first ``size`` networks for some batches each; return images/s, all together.

        The images come again where there are fewer of them than the batches want.
        """
        images = batches * self._settings.training.batch_size
        order = torch.arange(images) % self._dataset.size("train")
        lanes = self._lanes[:size]
        turns = [lane.train_epoch(order, _LEARNING_RATE, self._augment, _nothing) for lane in lanes]
        return size * images / self._seconds(lanes, turns)

    def evaluate(self, batches: int, size: int = 1) -> float:
        """Measure the first ``size`` networks on some batches of the test images each.

        Returns images/s, all together. The test images have to be as many as that.
        """
        images = batches * self._settings.training.evaluation_batch_size
        lanes = self._lanes[:size]
        turns = [_first(batches, lane.evaluate(_nothing)) for lane in lanes]
        return size * images / self._seconds(lanes, turns)

    def _seconds(self, lanes: Sequence[Lane], turns: Sequence[Iterator[None]]) -> float:
        """Let them take turns until all are done, and return how long that took."""
        self._wait()
        began = time.perf_counter()
        going = list(zip(lanes, turns, strict=True))
        while going:
            for entry in list(going):
                lane, work = entry
                with lane.turn():
                    if next(work, _OVER) is _OVER:
                        going.remove(entry)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self._dataset.device.type == "cuda":
            torch.cuda.synchronize(self._dataset.device)


class PlainLoop:
    """The same network in a loop as it is usually written.

    Args:
        settings: A trial; its network, activation, batch size, optimizer and augmentation count.
        arrays: What is trained on.
        device: Where.
        loaders: Processes of the DataLoader.
        bf16: Whether forward passes run under autocast to bfloat16.
    """

    def __init__(
        self,
        settings: TrialSettings,
        arrays: Arrays,
        device: torch.device,
        loaders: int,
        *,
        bf16: bool,
    ) -> None:
        training = settings.training
        self._batch_size = training.batch_size
        self._device = device
        self._loaders = loaders
        self._bf16 = bf16
        self._images = PlainImages(arrays, training.augmentation)
        self._network = build_network(
            settings.network,
            settings.activation,
            arrays.channels,
            arrays.num_classes,
            torch.Generator().manual_seed(0),
        ).to(device)
        arguments = arguments_of(training.optimizer) | {"lr": _LEARNING_RATE}
        self._optimizer: torch.optim.Optimizer = OPTIMIZERS.load(training.optimizer)(
            self._network.parameters(), **arguments
        )

    def train(self, batches: int) -> float:
        """Train for some batches, and return images/s.

        The time begins after one batch more, when the loader's processes are up.
        """
        images = (batches + 1) * self._batch_size
        loader = DataLoader(
            self._images,
            self._batch_size,
            sampler=RandomSampler(self._images, num_samples=images),
            num_workers=self._loaders,
            pin_memory=self._device.type == "cuda",
        )
        steps = train_epoch(self._network, loader, self._optimizer, self._device, self._bf16)
        next(steps)
        began = time.perf_counter()
        done = sum(1 for _ in steps)
        return done * self._batch_size / (time.perf_counter() - began)


def _first(batches: int, work: Generator[None, None, object]) -> Iterator[None]:
    """Do the first batches of what has as many or more."""
    with closing(work):
        yield from islice(work, batches)


def _nothing() -> None:
    """Nobody asks to stop."""
