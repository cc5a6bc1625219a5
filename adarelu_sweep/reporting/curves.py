"""An arm's curves taken together over its seeds."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from statistics import fmean, stdev


def mean_curve(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the mean over seeds at every epoch that all of them have (a diverged one is short)."""
    return [fmean(values) for values in _epochs(curves)]


def deviation_curve(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the sample deviation (n - 1) over seeds at every epoch that all of them have.

    Empty with fewer than two seeds; NaN where a value is not finite.
    """
    if len(curves) < 2:
        return []
    return [stdev(v) if all(map(isfinite, v)) else nan for v in _epochs(curves)]


def _epochs(curves: Mapping[int, Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*curves.values(), strict=False))
