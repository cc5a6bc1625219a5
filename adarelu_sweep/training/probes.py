"""What is seen of the activation layers while a trial trains: dead units, sparsity, branches.

Nothing here adds a pass over the data or a synchronization: training batches leave their votes
behind, evaluation is watched by hooks, and what is counted is read once at the epoch's end.

A unit is one element of a layer's output for an image (channel, row, column). It is *dead* if its
output is 0 for every image of the evaluation set, the definition of Lu, Shin, Su and Karniadakis
("Dying ReLU and initialization: theory and numerical examples", 2020) for a neuron, taken over the
images at hand. *Sparsity* is the share of outputs that are 0 (Glorot, Bordes and Bengio, "Deep
sparse rectifier neural networks", 2011), on the first evaluation batch, the same in every epoch.

A module that stands in several places is one layer: units of the same shape are one unit, sparsity
is that of the first place, and each of its votes counts as one of a batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Probes = dict[str, dict[str, float]]
"""Layer (its module name in the network), then quantity, then value: shares from 0 to 1."""

_Votes = list[tuple[Tensor, int]]
"""A batch's balance (positives minus negatives) and its number of elements, batch by batch."""


class LayerProbes:
    """Watches the activation layers of one network, an epoch at a time.

    Args:
        layers: The activation modules by their names. A module with an attribute ``recorded``
            (see :class:`~adarelu_sweep.AdaReLU`) is also asked for its votes in training.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self._voting: dict[str, Any] = {
            name: module for name, module in layers.items() if hasattr(module, "recorded")
        }
        self._votes: dict[str, _Votes] = {}
        self._activity: dict[str, _Activity] = {}

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep the votes of the training batches in this context, which is one epoch."""
        self._votes = {name: [] for name in self._voting}
        for name, module in self._voting.items():
            module.recorded = self._votes[name]
        try:
            yield
        finally:
            for module in self._voting.values():
                module.recorded = None

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Watch the outputs in this context, which is one evaluation."""
        self._activity = {name: _Activity() for name in self._layers}
        handles = [
            module.register_forward_hook(self._activity[name].watch)
            for name, module in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self) -> Probes:
        """Return what was seen since the last reading; waits for the device."""
        seen: Probes = {}
        for name in self._layers:
            quantities = self._activity[name].quantities() if name in self._activity else {}
            quantities |= _branches(self._votes.get(name, []))
            if quantities:
                seen[name] = quantities
        self._votes, self._activity = {}, {}
        return seen


class _Activity:
    """Which units of a layer were ever active, and how many outputs of the first batch were 0."""

    def __init__(self) -> None:
        # The largest magnitude of every unit so far, by the shape of the output for an image.
        self._peaks: dict[torch.Size, Tensor] = {}
        self._active_in_first: Tensor | None = None
        self._outputs_of_first = 0

    def watch(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        peak = _peak(output.detach())
        if self._active_in_first is None:
            self._active_in_first = torch.count_nonzero(output)
            self._outputs_of_first = output.numel()
        if peak.shape in self._peaks:
            known = self._peaks[peak.shape]
            torch.maximum(known, peak, out=known)
        else:
            self._peaks[peak.shape] = peak

    def quantities(self) -> dict[str, float]:
        if self._active_in_first is None:
            return {}
        dead = sum(int((peak == 0).sum()) for peak in self._peaks.values())
        return {
            "dead_fraction": dead / sum(peak.numel() for peak in self._peaks.values()),
            "sparsity": 1 - int(self._active_in_first) / self._outputs_of_first,
        }


def _peak(output: Tensor) -> Tensor:
    """Return the largest magnitude of every unit over the images of a batch."""
    # In the order of memory, largest stride first: several times faster than a reduction over
    # channels_last as it stands. Which order that is may change where a size is 1.
    axes, strides = range(1, output.dim()), output.stride()
    order = sorted(axes, key=lambda axis: -strides[axis])
    ordered = output.permute(0, *order)
    peak = torch.maximum(ordered.amax(0), -ordered.amin(0))
    return peak.permute([order.index(axis) for axis in axes])


def _branches(votes: _Votes) -> dict[str, float]:
    """Return what the votes of an epoch's batches, in their order, say."""
    if not votes:
        return {}
    balances = torch.stack([balance for balance, _ in votes]).cpu()
    elements = torch.tensor([max(count, 1) for _, count in votes])
    negative = balances > 0
    quantities = {
        "negative_branch_rate": int(negative.sum()) / len(negative),
        "imbalance": float((balances.abs() / elements.double()).mean()),
    }
    if len(negative) > 1:
        changes = int((negative[1:] != negative[:-1]).sum())
        quantities["branch_change_rate"] = changes / (len(negative) - 1)
    return quantities
