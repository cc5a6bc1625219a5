"""An arm's curves taken together over its seeds.

Curves may differ in length: every epoch is taken over the seeds that have it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean, stdev


def mean_curve(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the mean over the seeds at every epoch."""
    return [fmean(values) for values in _epochs(curves)]


def deviation_curve(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the sample deviation (n - 1) over the seeds, as long as two of them have the epoch."""
    return [stdev(values) for values in _epochs(curves) if len(values) > 1]


def _epochs(curves: Mapping[int, Sequence[float]]) -> Iterator[list[float]]:
    for values in zip_longest(*curves.values()):
        yield [value for value in values if value is not None]
