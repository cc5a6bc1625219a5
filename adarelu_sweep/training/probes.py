"""What is seen of the activation layers while a trial trains: dead units, sparsity, branches.

Nothing here adds a pass over the data or a synchronization: training batches leave their votes
behind, evaluation is watched by hooks, and what is counted is read once at the epoch's end. What
is kept of a batch goes to tensors that stay where they are from epoch to epoch, so that the work on
a batch may be captured (see ``repeating``).

A unit is one element of a layer's output for an image (channel, row, column). It is *dead* if its
output is 0 for every image of the evaluation set, the definition of Lu, Shin, Su and Karniadakis
("Dying ReLU and initialization: theory and numerical examples", 2020) for a neuron, taken over the
images at hand. *Sparsity* is the share of outputs that are 0 (Glorot, Bordes and Bengio, "Deep
sparse rectifier neural networks", 2011), on the first evaluation batch, the same in every epoch.

A module that stands in several places is one layer: units of the same shape are one unit, sparsity
is that of the first place, and each of its votes counts as one of a batch.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Probes = dict[str, dict[str, float]]
"""Layer (its module name in the network), then quantity, then value: shares from 0 to 1."""


class LayerProbes:
    """Watches the activation layers of one network, an epoch at a time.

    Args:
        layers: The activation modules by their names. A module with an attribute ``recorded``
            (see :class:`~adarelu_sweep.AdaReLU`) is also asked for its votes in training.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self._votes = _Votes(
            {name: module for name, module in layers.items() if hasattr(module, "recorded")}
        )
        self._activity = {name: _Activity() for name in layers}

    @contextmanager
    def training(self, batches: int) -> Iterator[None]:
        """Keep the votes of the training batches in this context, which is one epoch."""
        self._votes.begin(batches)
        try:
            yield
        finally:
            self._votes.end()

    def before_batch(self) -> None:
        """Forget the votes of a batch that was given up, as in a capture that fails."""
        self._votes.forget()

    def after_batch(self) -> None:
        """Keep the votes of the training batch whose forward pass is done."""
        self._votes.keep()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Watch the outputs in this context, which is one evaluation."""
        for activity in self._activity.values():
            activity.begin()
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
        branches = self._votes.read()
        seen: Probes = {}
        for name, activity in self._activity.items():
            if quantities := activity.read() | branches.get(name, {}):
                seen[name] = quantities
        return seen


class _Votes:
    """How the layers that vote did so, batch by batch of an epoch."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self._layers = layers
        self._names: list[str] = []
        """Whose votes the columns are: a layer that stands in several places has several."""
        self._elements: dict[tuple[int, ...], Tensor] = {}
        self._shares: Tensor | None = None
        """(positives - negatives) / elements, float64, batches x votes."""
        self._batch = torch.zeros(1, dtype=torch.int64)
        """Which row is next, on the device."""
        self._alike = True

    def begin(self, batches: int) -> None:
        if self._shares is not None and len(self._shares) != batches:
            self._shares = None
        self._batches = batches
        self._alike = True
        self._batch.zero_()
        for module in self._layers.values():
            module.recorded = []

    def end(self) -> None:
        for module in self._layers.values():
            module.recorded = None

    def forget(self) -> None:
        for module in self._layers.values():
            if module.recorded:
                module.recorded.clear()

    def keep(self) -> None:
        """Move the votes of a batch from the layers into its row."""
        names = [name for name, module in self._layers.items() for _ in module.recorded]
        votes = [vote for module in self._layers.values() for vote in module.recorded]
        self.forget()
        if not votes:
            return
        balances = torch.stack([balance for balance, _ in votes])
        if self._shares is None:
            self._names = names
            self._batch = torch.zeros(1, dtype=torch.int64, device=balances.device)
            self._shares = balances.new_zeros((self._batches, len(votes)), dtype=torch.float64)
        if names != self._names:
            self._alike = False  # a network that takes another way with every batch
            return
        sizes = tuple(max(elements, 1) for _, elements in votes)
        if sizes not in self._elements:
            # Filled on the device: a copy from the host would wait for it.
            filled = [torch.full_like(self._shares[0, 0], size) for size in sizes]
            self._elements[sizes] = torch.stack(filled)
        # By comparison, not by index, which has to be sorted where algorithms are deterministic.
        here = torch.arange(self._batches, device=balances.device) == self._batch
        share = balances / self._elements[sizes]
        self._shares.copy_(torch.where(here[:, None], share, self._shares))
        self._batch += 1

    def read(self) -> Probes:
        """Return what the votes of the epoch's batches, in their order, say; once."""
        kept = int(self._batch)
        self._batch.zero_()
        if self._shares is None or not kept or not self._alike:
            return {}
        shares = self._shares[:kept].cpu()
        columns: dict[str, list[int]] = defaultdict(list)
        for column, name in enumerate(self._names):
            columns[name].append(column)
        return {name: _branches(shares[:, own].flatten()) for name, own in columns.items()}


class _Activity:
    """Which units of a layer were ever active, and how many outputs of the first batch were 0."""

    def __init__(self) -> None:
        # The largest magnitude of every unit so far, by the shape of the output for an image.
        self._peaks: dict[torch.Size, Tensor] = {}
        self._active_in_first: Tensor | None = None
        self._outputs_of_first = 0

    def begin(self) -> None:
        """Forget what was seen."""
        self._active_in_first = None
        for peak in self._peaks.values():
            peak.zero_()

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

    def read(self) -> dict[str, float]:
        """Return what was seen since ``begin``; once."""
        if self._active_in_first is None:
            return {}
        active, self._active_in_first = int(self._active_in_first), None
        dead = sum(int((peak == 0).sum()) for peak in self._peaks.values())
        return {
            "dead_fraction": dead / sum(peak.numel() for peak in self._peaks.values()),
            "sparsity": 1 - active / self._outputs_of_first,
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


def _branches(shares: Tensor) -> dict[str, float]:
    """Return what a layer's votes say: (positives - negatives) / elements, batch by batch."""
    negative = shares > 0
    quantities = {
        "negative_branch_rate": int(negative.sum()) / len(negative),
        "imbalance": float(shares.abs().mean()),
    }
    if len(negative) > 1:
        changes = int((negative[1:] != negative[:-1]).sum())
        quantities["branch_change_rate"] = changes / (len(negative) - 1)
    return quantities
