"""Measuring a network on one split of a data set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.datasets.resident import ResidentDataset, Split
from adarelu_sweep.training.precision import Precision


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured."""

    loss: float
    """Mean cross entropy over the images, in nats."""
    accuracy: float
    """Percent of the images whose largest logit is their label's."""
    confusion: Tensor
    """Counts, int64, classes x classes: row = label, column = prediction; on the CPU."""


@torch.no_grad()
def evaluate(
    network: nn.Module,
    dataset: ResidentDataset,
    split: Split,
    batch_size: int,
    precision: Precision,
    limit: int | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate in batches of ``batch_size``, in the data set's order; the last may be smaller.

    ``limit`` takes that many images at most, the first ones of the split; ``before_batch`` is
    called before every batch, and may end it all by an exception. The sums stay on the device until
    the end.
    """
    network.eval()
    classes = dataset.num_classes
    size = min(dataset.size(split), limit or dataset.size(split))
    loss = torch.zeros((), dtype=torch.float64, device=dataset.device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=dataset.device)
    for indices in torch.split(torch.arange(size, device=dataset.device), batch_size):
        before_batch()
        images, labels = dataset.batch(split, indices, precision.memory_format)
        with precision.autocast(dataset.device):
            logits = network(images)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        confusion += torch.bincount(
            labels * classes + logits.argmax(1), minlength=classes * classes
        )
    table = confusion.view(classes, classes).cpu()
    return Evaluation(
        loss=loss.item() / size,
        accuracy=100 * int(table.diagonal().sum()) / size,
        confusion=table,
    )
