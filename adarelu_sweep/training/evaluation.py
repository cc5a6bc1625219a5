"""Measuring a network on one split of a data set."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.datasets.resident import ResidentDataset, Split
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.repeating import Repeated, finish


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured."""

    loss: float
    """Mean cross entropy over the images, in nats."""
    accuracy: float
    """Percent of the images whose largest logit is their label's."""
    confusion: Tensor
    """Counts, int64, classes x classes: row = label, column = prediction; on the CPU."""


class Evaluator:
    """Measures a network in batches of ``batch_size``, in the data set's order, again and again.

    The last batch may be smaller. The sums stay on the device until the end. With ``capture`` the
    batches after the first are captured on a GPU; hooks of the network then run while that is done,
    and at every first batch.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: ResidentDataset,
        split: Split,
        batch_size: int,
        precision: Precision,
        *,
        capture: bool = False,
    ) -> None:
        self._network = network
        self._dataset = dataset
        self._split = split
        self._batch_size = batch_size
        self._precision = precision
        device, classes = dataset.device, dataset.num_classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self._batch = Repeated(device, capture=capture)

    def measure(
        self, before_batch: Callable[[], None] = lambda: None, limit: int | None = None
    ) -> Generator[None, None, Evaluation]:
        """Measure batch by batch, giving others a turn after each; return what was measured.

        ``limit`` takes that many images at most, the first ones of the split; ``before_batch`` is
        called before every batch, and may end it all by an exception.
        """
        classes = self._dataset.num_classes
        size = min(self._dataset.size(self._split), limit or self._dataset.size(self._split))
        everything = torch.arange(size, device=self._dataset.device)
        self._network.eval()
        self._loss.zero_()
        self._confusion.zero_()
        for number, indices in enumerate(torch.split(everything, self._batch_size)):
            before_batch()
            self._batch(self._add, indices, as_it_is=number == 0)
            yield
        table = self._confusion.view(classes, classes).cpu()
        return Evaluation(
            loss=self._loss.item() / size,
            accuracy=100 * int(table.diagonal().sum()) / size,
            confusion=table,
        )

    @torch.no_grad()
    def _add(self, indices: Tensor) -> None:
        """Add a batch to the sums."""
        fmt = self._precision.memory_format
        images, labels = self._dataset.batch(self._split, indices, fmt)
        with self._precision.autocast(self._dataset.device):
            logits = self._network(images)
        self._loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        # By comparison: bincount waits for the device to learn how many bins there are, and adding
        # by index needs a sort where algorithms are deterministic.
        cells = labels * self._dataset.num_classes + logits.argmax(1)
        every = torch.arange(len(self._confusion), device=cells.device)
        self._confusion += (cells[:, None] == every).sum(0)


def evaluate(
    network: nn.Module,
    dataset: ResidentDataset,
    split: Split,
    batch_size: int,
    precision: Precision,
    limit: int | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measure once, as :class:`Evaluator` does."""
    evaluator = Evaluator(network, dataset, split, batch_size, precision)
    return finish(evaluator.measure(before_batch, limit))
