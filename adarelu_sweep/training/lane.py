"""A network on its device: what a step of training and a batch of an evaluation do to it.

Nothing here waits for the device but the reading of an epoch's sums. What a step reads and writes
stays where it is, so that it may be captured, and serves trial after trial.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.networks.digest import weight_digest
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.training.augmentation import Augmentation
from adarelu_sweep.training.evaluation import Evaluation, Evaluator
from adarelu_sweep.training.optimizers import build_optimizer, forget, set_learning_rate
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.probes import LayerProbes
from adarelu_sweep.training.repeating import Repeated
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import NetworkNoise, generator


@dataclass(frozen=True)
class TrainingSums:
    """What an epoch of training summed up."""

    loss: float
    """Mean cross entropy over the epoch's images, each under the weights of its own step."""
    accuracy: float
    """Percent of the images that were predicted right, by the same."""
    seconds: float


class Lane:
    """A network, its optimizer and its probes, on the stream of its own of a GPU.

    Args:
        settings: A trial. A lane serves all trials that differ from it only in the seed.
        dataset: What they are trained and measured on.

    Attributes:
        built_in: Whether all its parts come with the package.
        initial_digest: Tells the initial weights of the trial that it serves.
    """

    def __init__(self, settings: TrialSettings, dataset: ResidentDataset) -> None:
        training, device = settings.training, dataset.device
        self.settings = settings
        self.dataset = dataset
        self.built_in = (
            settings.network.name in NETWORKS and settings.activation.name in ACTIVATIONS
        )
        self.precision = Precision.of(training)
        self.network = self._initial_network(settings)
        self.initial_digest = weight_digest(self.network)
        self.network.to(device).to(memory_format=self.precision.memory_format)
        self.layers = activation_layers(self.network)
        self.optimizer = build_optimizer(training.optimizer, self.network)
        self.probes = LayerProbes(self.layers if training.probes else {})
        self._augment: Augmentation | None = None
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        capture = self.built_in or _captures_any_part()
        self._step = Repeated(device, capture=capture)
        self._evaluator = Evaluator(
            self.network,
            dataset,
            settings.measured_on,
            training.evaluation_batch_size,
            self.precision,
            capture=capture,
        )
        self._noise = NetworkNoise()
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _initial_network(self, settings: TrialSettings) -> nn.Module:
        return build_network(
            settings.network,
            settings.activation,
            self.dataset.in_channels,
            self.dataset.num_classes,
            generator(settings.seed, "initial weights"),
        )

    def serves(self, settings: TrialSettings, dataset: ResidentDataset) -> bool:
        """Return whether another trial may be trained here, after ``start_over``.

        On a GPU only, where what was captured is saved; and where all parts are built in, because
        another's may hold a state that is not seen.
        """
        same = self.settings.model_copy(update={"seed": settings.seed}) == settings
        on_gpu = self.dataset.device.type == "cuda"
        return on_gpu and self.built_in and same and dataset is self.dataset

    def start_over(self, settings: TrialSettings) -> None:
        """Set everything to what it is before the first step of a trial, in place."""
        fresh = self._initial_network(settings)
        self.settings = settings
        self.initial_digest = weight_digest(fresh)
        self.network.load_state_dict(fresh.state_dict())
        forget(self.optimizer)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let this lane's work be done in this context, on its stream and with its noise."""
        stream = torch.cuda.stream(self._stream) if self._stream else nullcontext()
        with stream, self._noise.turn():
            yield

    def train_epoch(
        self,
        order: Tensor,
        learning_rate: float,
        augment: Augmentation | None,
        before_step: Callable[[], None],
    ) -> Generator[None, None, TrainingSums]:
        """Train an epoch step by step, giving others a turn after each.

        Args:
            order: The images in the order in which they are seen, int64, on the CPU.
            learning_rate: Of all steps.
            augment: How the images are changed.
            before_step: Called before every step, and may end it all by an exception.
        """
        set_learning_rate(self.optimizer, learning_rate)
        if self._augment is None or augment is None:
            self._augment = augment
        else:
            self._augment.take(augment)
        self._loss.zero_()
        self._correct.zero_()
        self.network.train()
        batches = torch.split(order.to(self.dataset.device), self.settings.training.batch_size)
        start = time.perf_counter()
        with self.probes.training(len(batches)):
            for indices in batches:
                before_step()
                self._step(self._update, indices)
                yield
        # The first reading waits for the device, so the time is that of the work.
        mean_loss = self._loss.item() / len(order)
        seconds = time.perf_counter() - start
        accuracy = 100 * int(self._correct.item()) / len(order)
        return TrainingSums(mean_loss, accuracy, seconds)

    def _update(self, indices: Tensor) -> None:
        """Do one step; add the batch's loss and its hits to the sums."""
        fmt = self.precision.memory_format
        images, labels = self.dataset.batch("train", indices, fmt, self._augment)
        self.probes.before_batch()
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast(self.dataset.device):
            logits = self.network(images)
        self.probes.after_batch()
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._loss += loss.detach() * len(indices)
        self._correct += (logits.detach().argmax(1) == labels).sum()

    def evaluate(self, before_batch: Callable[[], None]) -> Generator[None, None, Evaluation]:
        """Measure the network, giving others a turn after each batch."""
        with self.probes.evaluation():
            return (yield from self._evaluator.measure(before_batch))


def _captures_any_part() -> bool:
    """Return whether captured steps are right, and may fail to be captured, whatever is in them.

    Before torch 2.15 the graphs of several streams shared what their layers draw noise from, and
    a capture that failed left the allocator and the random numbers in its state. The parts that are
    built in draw nothing and wait for nothing.
    """
    return torch.__version__ >= "2.15"
