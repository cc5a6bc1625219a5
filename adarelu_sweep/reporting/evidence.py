"""What a study's results say: summaries and paired comparisons, worked out once for every format.

Activations are compared within a block (a data set and a network), paired by seed, each with the
baseline; Holm's correction is over the comparisons of one measure in one block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from adarelu_sweep.reporting.convergence import (
    SpreadRatio,
    epoch_to_epoch_deviation,
    epochs_or_more,
    epochs_to_threshold,
    loss_area,
    spread,
    spread_ratio,
)
from adarelu_sweep.reporting.ranks import Ranking, rank
from adarelu_sweep.reporting.results import Arm, Block, Results
from adarelu_sweep.reporting.statistics import Comparison, Summary, compare, summarize, with_holm

CONVERGED = 0.95
"""Share of the baseline's mean accuracy that counts as converged, unless a threshold is given."""

BySeed = dict[int, float]


@dataclass(frozen=True)
class Measured:
    """One measure of one arm, over its seeds."""

    values: BySeed
    summary: Summary
    comparison: Comparison | None
    """With the baseline; None for the baseline itself."""


@dataclass(frozen=True)
class ArmEvidence:
    """What is known of an arm beside the others of its block."""

    arm: Arm
    accuracy: Measured
    """Test accuracy at the last epoch, percent."""
    epochs_to_threshold: Measured
    """Epochs until the test accuracy reaches the block's threshold (see ``epochs_or_more``)."""
    reached: int
    """How many seeds reached it."""
    deviation: Measured
    """Deviation of the test accuracy from epoch to epoch, percentage points."""
    loss_area: Measured
    """Mean height of the training loss over the epochs, nats."""
    spread: list[float]
    """Deviation of the test accuracy over the seeds at every epoch, percentage points."""
    spread_ratio: SpreadRatio | None
    """Spread relative to the baseline's; None for the baseline itself."""

    @property
    def activation(self) -> str:
        """Label of the activation."""
        return self.arm.activation


@dataclass(frozen=True)
class BlockEvidence:
    """The arms of a block, compared with the baseline."""

    block: Block
    baseline: str
    threshold: float | None
    """Test accuracy, percent, that counts as converged; None while the baseline has no trial."""
    arms: list[ArmEvidence]

    @property
    def contenders(self) -> list[ArmEvidence]:
        """The arms beside the baseline."""
        return [arm for arm in self.arms if arm.activation != self.baseline]


@dataclass(frozen=True)
class Evidence:
    """Everything that the report's tables, figures and sentences are made of."""

    results: Results
    blocks: list[BlockEvidence]
    ranking: Ranking | str
    """Average ranks over the blocks, or why there are none."""


@lru_cache(maxsize=1)
def weigh(results: Results) -> Evidence:
    """Compare every arm with its baseline, and rank the activations over the blocks.

    Kept for the next who asks: every format of a report is made from it.
    """
    blocks = [_weigh(block, results) for block in results.blocks]
    ranked = {block.label: means for block in results.blocks if (means := _paired_means(block))}
    return Evidence(results, blocks, rank(ranked))


def _weigh(block: Block, results: Results) -> BlockEvidence:
    baseline = block.arm(results.baseline)
    threshold = results.threshold
    if threshold is None and baseline and baseline.n:
        threshold = CONVERGED * fmean(baseline.accuracies().values())

    def measure(values: Callable[[Arm], BySeed]) -> list[Measured]:
        return _measure(block.arms, results.baseline, values)

    def converged(arm: Arm) -> BySeed:
        planned = arm.settings.training.epochs
        curves = {} if threshold is None else arm.curves("test/accuracy")
        return {
            seed: epochs_or_more(_reached(curve, threshold), planned)
            for seed, curve in curves.items()
        }

    accuracy = measure(Arm.accuracies)
    epochs = measure(converged)
    deviation = measure(lambda arm: _each(arm.curves("test/accuracy"), epoch_to_epoch_deviation))
    area = measure(lambda arm: _each(arm.curves("train/loss"), loss_area))
    base_curves = baseline.curves("test/accuracy") if baseline else {}
    arms = []
    for index, arm in enumerate(block.arms):
        curves = arm.curves("test/accuracy")
        arms.append(
            ArmEvidence(
                arm,
                accuracy[index],
                epochs[index],
                sum(_reached(curve, threshold) is not None for curve in curves.values()),
                deviation[index],
                area[index],
                spread(curves),
                None if arm is baseline else spread_ratio(curves, base_curves),
            )
        )
    return BlockEvidence(block, results.baseline, threshold, arms)


def _measure(arms: Sequence[Arm], baseline: str, values: Callable[[Arm], BySeed]) -> list[Measured]:
    measured = [values(arm) for arm in arms]
    base = next(
        (m for arm, m in zip(arms, measured, strict=True) if arm.activation == baseline), {}
    )
    others = [i for i, arm in enumerate(arms) if arm.activation != baseline]
    compared = with_holm([compare(measured[i], base) for i in others])
    comparisons = dict(zip(others, compared, strict=True))
    return [
        Measured(value, summarize(list(value.values())), comparisons.get(i))
        for i, value in enumerate(measured)
    ]


def _each(
    curves: Mapping[int, Sequence[float]], measure: Callable[[Sequence[float]], float | None]
) -> BySeed:
    """Measure every seed's curve, leaving out those for which the measure is not defined."""
    measured = {seed: measure(curve) for seed, curve in curves.items()}
    return {seed: value for seed, value in measured.items() if value is not None}


def _reached(curve: Sequence[float], threshold: float | None) -> int | None:
    return None if threshold is None else epochs_to_threshold(curve, threshold)


def _paired_means(block: Block) -> dict[str, float]:
    """Return activation to mean accuracy over the seeds that all arms with results share."""
    accuracies = {arm.activation: arm.accuracies() for arm in block.arms if arm.n}
    common = set.intersection(*map(set, accuracies.values())) if accuracies else set()
    if not common:
        return {}
    return {label: fmean(by[seed] for seed in common) for label, by in accuracies.items()}
