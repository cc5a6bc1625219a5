"""How steadily a training converges, from its values per epoch; accuracies are in percent.

What is undefined for a trial is None. Of a diverged trial, the curve may be short, or be drawn out
by its last accuracy (``Arm.averaged``): what is measured decides.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from adarelu_sweep.reporting.statistics import (
    CONFIDENCE,
    DIGITS,
    FEWEST_RESAMPLED,
    RESAMPLES,
    RESAMPLING_SEED,
)

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


class SpreadRatio(NamedTuple):
    """The spread over seeds relative to the baseline's; below 1 the seeds are more alike."""

    ratio: float | None
    """Mean over epochs of the deviation over seeds, divided by the baseline's."""
    low: float | None
    """95 % percentile bootstrap interval of the ratio over seeds; of few seeds it is too narrow."""
    high: float | None
    p_value: float | None
    """Two-sided test of Pitman (1939) and Morgan (1939) that the paired variances at the last
    epoch are equal; it takes the values to be normal."""


def least_learned(classes: int) -> float:
    """Return the test accuracy, percent, below which a training counts as not having learned.

    Twice chance, or half-way from chance to 100 % where that is less, as with two classes.
    """
    chance = 100 / classes
    return min(2 * chance, (chance + 100) / 2)


def epochs_to_threshold(accuracy: Sequence[float], threshold: float) -> int | None:
    """Return the first epoch, counted from 1, that reaches the threshold; None if none does."""
    return next((epoch for epoch, value in enumerate(accuracy, 1) if value >= threshold), None)


def epochs_or_more(reached: int | None, planned: int) -> int:
    """Return the epochs to a threshold as a number that can be compared and averaged.

    One that was not reached in the planned epochs counts as one epoch more: a lower bound, so that
    differences of such numbers are nearer to 0 than the true ones. Planned, not trained: a trial
    that diverged early must not count as a fast one.
    """
    return planned + 1 if reached is None else reached


def epoch_to_epoch_deviation(accuracy: Sequence[float]) -> float | None:
    """Return how unsteady the accuracy is, in percentage points; None below 5 epochs.

    It is the sample standard deviation of the changes from one epoch to the next, over the second
    half of the epochs, so that the first rise, common to all, does not dominate.
    """
    late = accuracy[len(accuracy) // 2 :]
    changes = [after - before for before, after in pairwise(late)]
    return stdev(changes) if len(changes) > 1 and all(map(isfinite, changes)) else None


def loss_area(loss: Sequence[float]) -> float | None:
    """Return the area under a loss curve by its length in epochs, in the unit of the loss.

    Trapezoids; None below 2 epochs and where a loss is not finite.
    """
    if len(loss) < 2 or not all(map(isfinite, loss)):
        return None
    return fmean((before + after) / 2 for before, after in pairwise(loss))


def spread(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the sample deviation over the seeds at every epoch that all curves have.

    Empty below 2 seeds. The curves are seed -> value per epoch, all of them finite.
    """
    if len(curves) < 2:
        return []
    return [stdev(values) for values in zip(*curves.values(), strict=False)]


def spread_ratio(
    curves: Mapping[int, Sequence[float]], baseline_curves: Mapping[int, Sequence[float]]
) -> SpreadRatio:
    """Compare the spread over the seeds that both have, over the epochs that all of them have.

    The seeds are paired, so the bootstrap draws the same ones for both. Nothing is known below 2
    seeds, where a value is not finite, or where the baseline's curves are all equal.
    """
    import numpy as np

    seeds = sorted(curves.keys() & baseline_curves.keys())
    every = [*(curves[seed] for seed in seeds), *(baseline_curves[seed] for seed in seeds)]
    epochs = min(map(len, every), default=0)
    if len(seeds) < 2 or not epochs:
        return SpreadRatio(None, None, None, None)
    values = np.array([curve[:epochs] for curve in every]).reshape(2, len(seeds), epochs)
    spreads = np.std(values, axis=1, ddof=1).mean(axis=1)
    if not np.isfinite(values).all() or spreads[1] <= _rounding(values):
        return SpreadRatio(None, None, None, None)
    low, high = _ratio_interval(values)
    return SpreadRatio(float(spreads[0] / spreads[1]), low, high, _pitman_morgan(values[..., -1]))


def _ratio_interval(values: "NDArray[float64]") -> tuple[float, float] | tuple[None, None]:
    """Return the interval of the ratio; values have the shape (2, seeds, epochs).

    Resamples of one seed alone have no spread and are left out. None where the baseline's spread
    vanishes in more than a few of the others.
    """
    import numpy as np

    n = values.shape[1]
    if n < FEWEST_RESAMPLED:
        return None, None
    # A resample is known by how often it has each seed.
    times = np.random.default_rng(RESAMPLING_SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    times = times[times.max(axis=1) < n]
    centred = values - values.mean(axis=1, keepdims=True)
    squares = times @ centred**2 - (times @ centred) ** 2 / n
    squares[squares <= _rounding(centred**2)] = 0
    spreads = np.sqrt(squares).mean(axis=2)
    tail = (1 - CONFIDENCE) / 2
    defined = spreads[1] > 0
    if defined.mean() < 1 - tail:
        return None, None
    low, high = np.quantile(spreads[0, defined] / spreads[1, defined], [tail, 1 - tail])
    return float(low), float(high)


def _pitman_morgan(pair: "NDArray[float64]") -> float | None:
    """Return the p-value for equal variances of two paired samples, of the shape (2, seeds).

    The variances are equal exactly if sums and differences of the pairs are uncorrelated. None
    below 3 seeds, and where one of the two does not vary, which is not normal.
    """
    import numpy as np
    from scipy.stats import pearsonr

    rounding = _rounding(pair)
    if pair.shape[1] < 3 or (np.ptp(pair, axis=1) <= rounding).any():
        return None
    sums, differences = pair[0] + pair[1], pair[0] - pair[1]
    if np.ptp(sums) <= rounding or np.ptp(differences) <= rounding:  # equal deviations
        return 1.0
    return float(pearsonr(sums, differences).pvalue)


def _rounding(values: "NDArray[float64]") -> float:
    """Return what counts as no difference between such values."""
    return float(abs(values).max() * 10**-DIGITS)
