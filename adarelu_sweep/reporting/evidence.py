"""What a study's results say: summaries and paired comparisons, worked out once for every format.

Activations are compared within a block (a data set and a network), paired by seed, each with the
baseline; Holm's correction is over the comparisons of one measure in one block.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from adarelu_sweep.reporting.convergence import (
    SpreadRatio,
    epoch_to_epoch_deviation,
    epochs_or_more,
    epochs_to_threshold,
    least_learned,
    loss_area,
    spread,
    spread_ratio,
)
from adarelu_sweep.reporting.ranks import Ranking, rank
from adarelu_sweep.reporting.results import Arm, Block, Results
from adarelu_sweep.reporting.statistics import Comparison, Summary, compare, summarize, with_holm
from adarelu_sweep.reporting.table import fixed, percent

CONVERGED = 0.95
"""Share of the baseline's mean accuracy that counts as converged, unless a threshold is given."""

BySeed = dict[int, float]


@dataclass(frozen=True)
class Measured:
    """One measure of one arm, over its seeds."""

    values: BySeed
    summary: Summary
    comparison: Comparison | None
    """With the baseline; None for the baseline itself, and where the two are not compared."""


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
    """Spread relative to the baseline's; None for the baseline itself, and like the comparisons of
    deviation and loss area where one of the two did not converge."""
    converged: bool
    """False where no seed reached the threshold: what stays at chance is steady, and alike for all
    seeds, which says nothing about stability. True where that is not known."""

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
    """Test accuracy, percent, that counts as converged; None where ``origin`` says why."""
    origin: str
    """Where the threshold comes from, or why there is none: what follows "the threshold is" or
    "no threshold"."""
    arms: list[ArmEvidence]
    steadiness_compared: bool
    """Whether the baseline converged, so that deviation, loss area and spread can be compared."""

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
    threshold, origin = _threshold(baseline, results)
    reached = [_reaching(arm, threshold) for arm in block.arms]
    converged = [
        threshold is None or bool(number) or not arm.curves("test/accuracy")
        for arm, number in zip(block.arms, reached, strict=True)
    ]
    known = dict(zip([arm.activation for arm in block.arms], converged, strict=True))
    steady = threshold is not None and known.get(results.baseline, False)
    compared = {label for label, ok in known.items() if ok and steady}

    def measure(values: Callable[[Arm], BySeed], among: Collection[str] = known) -> list[Measured]:
        return _measure(block.arms, results.baseline, values, among)

    def epochs_of(arm: Arm) -> BySeed:
        planned = arm.settings.training.epochs
        curves = {} if threshold is None else arm.curves("test/accuracy")
        return {
            seed: epochs_or_more(_reached(curve, threshold), planned)
            for seed, curve in curves.items()
        }

    accuracy = measure(Arm.accuracies)
    epochs = measure(epochs_of)
    deviation = measure(
        lambda arm: _each(arm.curves("test/accuracy"), epoch_to_epoch_deviation), compared
    )
    area = measure(_loss_areas, compared)
    base_curves = baseline.averaged("test/accuracy") if baseline else {}
    arms = []
    for index, arm in enumerate(block.arms):
        curves = arm.averaged("test/accuracy")
        beside = arm is not baseline and arm.activation in compared
        arms.append(
            ArmEvidence(
                arm,
                accuracy[index],
                epochs[index],
                reached[index],
                deviation[index],
                area[index],
                spread(curves),
                spread_ratio(curves, base_curves) if beside else None,
                converged[index],
            )
        )
    return BlockEvidence(block, results.baseline, threshold, origin, arms, steady)


def _threshold(baseline: Arm | None, results: Results) -> tuple[float | None, str]:
    """Return the accuracy that counts as converged, and where it comes from or why there is none.

    A share of the mean of a baseline that did not learn would be reached by anything.
    """
    name = results.baseline
    if results.threshold is not None:
        return results.threshold, "as given"
    if baseline is None or not baseline.n:
        return None, f"{name} has no result{results.so_far}"
    ended_well = [t.result.accuracy for t in baseline.trials if not t.result.diverged]
    if not ended_well:
        return None, f"every trial of {name} diverged"
    mean = fmean(ended_well)
    classes = baseline.evaluated.classes if baseline.evaluated else None
    if classes and mean < least_learned(classes):
        return None, (
            f"{name} did not learn: its mean is {fixed(mean)} %, and less than "
            f"{fixed(least_learned(classes))} % counts as near chance with {classes} classes"
        )
    these = " over the trials that did not diverge" if len(ended_well) < baseline.n else ""
    share = f"{percent(CONVERGED, 0)} % of {name}'s mean at its last epoch"
    return CONVERGED * mean, share + these


def _loss_areas(arm: Arm) -> BySeed:
    """Return seed to loss area; a diverged trial has none, however early its curve ends."""
    diverged = {trial.seed for trial in arm.trials if trial.result.diverged}
    curves = arm.curves("train/loss")
    return _each({seed: c for seed, c in curves.items() if seed not in diverged}, loss_area)


def _reaching(arm: Arm, threshold: float | None) -> int:
    """Return how many seeds reach the threshold."""
    curves = arm.curves("test/accuracy").values()
    return sum(_reached(curve, threshold) is not None for curve in curves)


def _measure(
    arms: Sequence[Arm],
    baseline: str,
    values: Callable[[Arm], BySeed],
    among: Collection[str],
) -> list[Measured]:
    """Measure every arm, and compare those ``among`` which it makes sense with the baseline."""
    measured = [values(arm) for arm in arms]
    base = next(
        (m for arm, m in zip(arms, measured, strict=True) if arm.activation == baseline), {}
    )
    others = [
        i for i, arm in enumerate(arms) if arm.activation != baseline and arm.activation in among
    ]
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
