"""Accuracy in batches of other sizes, where an activation's output depends on its batch."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training.evaluation import evaluate
from adarelu_sweep.training.precision import Precision

LARGE = 1000
ALONE = 1000  # images, where each has to pass the network alone


def is_batch_dependent(layers: Iterable[nn.Module]) -> bool:
    """Return whether any layer says, by ``batch_dependent``, that its output depends on a batch."""
    return any(getattr(layer, "batch_dependent", False) for layer in layers)


def accuracy_by_batch_size(
    network: nn.Module,
    layers: Iterable[nn.Module],
    dataset: ResidentDataset,
    training_size: int,
    precision: Precision,
    known: Mapping[int, float],
    before_batch: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Return the test accuracy (percent) in batches of 1, of the training size, and of 1,000.

    For batches of 1, layers that can let every sample vote alone (``vote_per_sample``) do so in
    one pass over the test set; where one cannot, the first 1,000 images pass one by one.
    ``known`` holds what was measured already, by batch size; ``before_batch`` is called before
    every batch.
    """

    def measured(batch_size: int, limit: int | None = None) -> float:
        return evaluate(
            network, dataset, "test", batch_size, precision, limit, before_batch
        ).accuracy

    dependent = [layer for layer in layers if getattr(layer, "batch_dependent", False)]
    accuracies = {}
    for size in sorted({1, training_size, LARGE}):
        if size in known:
            accuracies[size] = known[size]
        elif size > 1:
            accuracies[size] = measured(size)
        elif all(hasattr(layer, "vote_per_sample") for layer in dependent):
            with _votes_per_sample(dependent):
                accuracies[size] = measured(LARGE)
        else:
            accuracies[size] = measured(1, ALONE)
    return accuracies


@contextmanager
def _votes_per_sample(layers: Collection[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.vote_per_sample = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.vote_per_sample = False  # type: ignore[assignment]
