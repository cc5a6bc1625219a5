"""What is known of a study: its arms with their finished trials, and its searches."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from adarelu_sweep.components import Component, Scalar
from adarelu_sweep.recording.trials import Counts, TrialResult
from adarelu_sweep.reporting.table import brief
from adarelu_sweep.storing.places import Place
from adarelu_sweep.studies.schema import Arm as StudyArm
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.history import History
from adarelu_sweep.training.settings import TrialSettings

State = Literal["running", "interrupted", "complete", "failed"]


@dataclass(frozen=True)
class SeedResult:
    """One finished trial of an arm."""

    seed: int
    result: TrialResult
    number: int
    """Its number in the ledger."""
    folder: Path
    """Its own in the home."""
    place: Place
    """Where its checkpoint and its weights lie."""
    history: History = field(default_factory=History)
    """Empty where the checkpoint is gone or unreadable."""

    def curve(self, metric: str) -> list[float] | None:
        """Return a metric at every epoch, from epoch 1 on; None where some epoch lacks it."""
        values = [record.metrics.get(metric) for record in self.history.epochs]
        known = [value for value in values if value is not None]
        return known if known and len(known) == len(values) else None


class Evaluated(NamedTuple):
    """What an arm's trials were evaluated on at their end."""

    classes: int
    images: int


@dataclass(frozen=True)
class Arm:
    """Data set x network x activation, with the finished trials in the order of their seeds."""

    cell: StudyArm
    """What the study file says it is."""
    settings: TrialSettings
    """Those of its first seed; where a search has a best setting, with that."""
    planned: int
    trials: list[SeedResult]
    evaluated: Evaluated | None = None
    """None where no trial has a confusion matrix."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.cell.dataset

    @property
    def network(self) -> str:
        """Label of the network, as the study file has it."""
        return self.cell.network.label

    @property
    def activation(self) -> str:
        """Label of the activation, as the study file has it: what a search tuned is not in it."""
        return self.cell.activation.label

    @property
    def n(self) -> int:
        """The number of finished trials; diverged ones count."""
        return len(self.trials)

    @property
    def diverged(self) -> int:
        """The number of diverged trials."""
        return sum(trial.result.diverged for trial in self.trials)

    def accuracies(self) -> dict[int, float]:
        """Return seed to test accuracy at the last epoch, percent."""
        return {trial.seed: trial.result.accuracy for trial in self.trials}

    def curves(self, metric: str) -> dict[int, list[float]]:
        """Return seed to a metric at every epoch, for the trials whose history has it."""
        return {t.seed: curve for t in self.trials if (curve := t.curve(metric)) is not None}

    def averaged(self, metric: str) -> dict[int, list[float]]:
        """Return seed to a metric at every epoch, as it counts where seeds are taken together.

        A diverged trial keeps its last accuracy up to the last planned epoch, for that is its
        result. The curve of a loss ends where it is not finite.
        """
        curves = self.curves(metric)
        if metric.endswith("/loss"):
            return {seed: list(takewhile(isfinite, curve)) for seed, curve in curves.items()}
        epochs = self.settings.training.epochs
        ended = {trial.seed for trial in self.trials if trial.result.diverged}
        return {
            seed: curve + [curve[-1]] * (epochs - len(curve)) if seed in ended else curve
            for seed, curve in curves.items()
        }

    def last(self, metric: str) -> dict[int, float]:
        """Return seed to a metric at the last epoch, for the trials whose last epoch has it."""
        ends = {t.seed: t.history.epochs[-1].metrics for t in self.trials if t.history.epochs}
        return {seed: metrics[metric] for seed, metrics in ends.items() if metric in metrics}

    def probed(self) -> list[str]:
        """Return the quantities that some layer was probed for, in the order of their first."""
        records = [record for trial in self.trials for record in trial.history.epochs[:1]]
        return list(dict.fromkeys(q for r in records for seen in r.probes.values() for q in seen))

    def probe(self, quantity: str) -> dict[str, list[float]]:
        """Return layer to a probed quantity at every epoch: the mean over the seeds that have it.

        The layers are in the network's order. Empty where no trial was probed for it. A diverged
        trial is in the mean up to its last epoch.
        """
        epochs: list[dict[str, list[float]]] = []
        for trial in self.trials:
            for index, record in enumerate(trial.history.epochs):
                if index == len(epochs):
                    epochs.append({})
                for layer, seen in record.probes.items():
                    if quantity in seen:
                        epochs[index].setdefault(layer, []).append(seen[quantity])
        layers = epochs[0] if epochs else {}
        return {
            layer: [fmean(epoch[layer]) if layer in epoch else nan for epoch in epochs]
            for layer in layers
        }


@dataclass(frozen=True)
class Block:
    """The arms of one data set and one network: what is compared with each other."""

    dataset: str
    network: str
    arms: list[Arm]

    @property
    def label(self) -> str:
        """What people read."""
        return f"{self.dataset}, {self.network}"

    def arm(self, activation: str) -> Arm | None:
        """Return the arm with an activation, if there is one."""
        return next((arm for arm in self.arms if arm.activation == activation), None)


@dataclass(frozen=True)
class Variant:
    """An activation as it was trained: a search may choose other arguments in every block."""

    activation: str
    """Its label in the study file."""
    component: Component
    blocks: list[str]
    """Labels of the blocks that have it so."""

    @property
    def label(self) -> str:
        """The activation's label, with all arguments where a search changed one."""
        if self.component.label == self.activation:
            return self.activation
        return f"{self.activation} tuned to {self.arguments}"

    @property
    def arguments(self) -> str:
        """All its arguments, as people read them."""
        return ", ".join(f"{k} {brief(v)}" for k, v in self.component.arguments.items())


@dataclass(frozen=True)
class SearchTrial:
    """One trial of an arm's search."""

    number: int
    params: dict[str, Scalar]
    accuracy: float | None
    """Validation accuracy, percent; None for a trial without one."""
    state: str
    """Optuna's: ``complete``, ``pruned``, ``failed``, ``running`` or ``waiting``."""
    epochs: int


@dataclass(frozen=True)
class ArmSearch:
    """The search for an arm's best settings, on a validation split."""

    dataset: str
    network: str
    activation: str
    planned: int
    trials: list[SearchTrial]
    best: SearchTrial | None = None

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def finished(self) -> int:
        """The number of finished trials; pruned ones count."""
        return self.count("complete") + self.count("pruned")

    @property
    def given_up(self) -> bool:
        """Whether it ended before its time, because as many trials failed as were wanted."""
        return self.finished < self.planned <= self.count("failed")


@dataclass(frozen=True, eq=False)
class Results:
    """What is known of a study's arms so far. Equal to itself alone, so that it can be a key."""

    study: Study
    state: State
    counts: Counts
    arms: list[Arm]
    baseline: str
    """The label of the activation that the others are compared with."""
    threshold: float | None = None
    """Test accuracy, percent, that counts as converged; None for a share of the baseline's."""
    searches: list[ArmSearch] = field(default_factory=list)
    in_haste: bool = False
    """Whether the histories were not read, because somebody waits."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def subset(self) -> str | None:
        """Says so, where results come from a subset of the data."""
        return self.study.data.subset_note()

    @property
    def so_far(self) -> str:
        """What follows "no result": " yet", unless the study is over."""
        return "" if self.state in {"complete", "failed"} else " yet"

    @property
    def finished(self) -> int:
        """The number of finished trials in all arms."""
        return sum(arm.n for arm in self.arms)

    @property
    def without_history(self) -> int:
        """The number of finished trials whose course is not known."""
        return sum(not trial.history.epochs for arm in self.arms for trial in arm.trials)

    @cached_property
    def blocks(self) -> list[Block]:
        """The arms by data set and network, in the order of the study file."""
        keys = dict.fromkeys((arm.dataset, arm.network) for arm in self.arms)
        return [
            Block(*key, [arm for arm in self.arms if (arm.dataset, arm.network) == key])
            for key in keys
        ]

    @property
    def activations(self) -> list[str]:
        """The labels of the activations, in the order of the study file."""
        return list(dict.fromkeys(arm.activation for arm in self.arms))

    @property
    def variants(self) -> list[Variant]:
        """The activations as they were trained, in the order of the study file."""
        found: dict[tuple[str, str], Variant] = {}
        for activation in self.activations:
            for block in self.blocks:
                if arm := block.arm(activation):
                    component = arm.settings.activation
                    variant = Variant(activation, component, [])
                    found.setdefault((activation, component.label), variant).blocks.append(
                        block.label
                    )
        return list(found.values())
