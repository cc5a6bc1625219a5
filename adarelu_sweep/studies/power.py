"""What a number of seeds can show: the power of the paired sign-flip test.

Every effect here is a true mean difference divided by the standard deviation of the paired
differences, which are taken to be normal.
"""

from functools import cache
from itertools import count
from math import floor, ldexp, sqrt

LEVEL = 0.05
"""A p-value counts as significant up to this."""

POWER = 0.8
"""An effect counts as detectable if this share of the studies finds it (Cohen, 1988)."""

FEW = 12
"""Up to this many seeds the test's discreteness matters, and 2**n subsets fit in memory."""


def smallest_p_value(n: int) -> float:
    """Return the least two-sided p-value of a sign-flip test with n pairs, 2 / 2**n."""
    return min(1.0, ldexp(2.0, -n))


def fewest_seeds(alpha: float) -> int:
    """Return the least number of pairs with which a two-sided sign-flip test can reach alpha."""
    if not alpha > 0:
        raise ValueError(f"no test reaches p = {alpha}")
    return next(n for n in count(1) if smallest_p_value(n) <= alpha)


@cache
def detectable_effect(n: int, alpha: float = LEVEL, power: float = POWER) -> float | None:
    """Return the smallest effect that n seeds find with this power; None where p > alpha always.

    Found means: the two-sided sign-flip test of the mean has p <= alpha, and its sign is right.
    With more than a few seeds the test is as powerful as the paired t test (Hoeffding, 1952, Annals
    of Mathematical Statistics 23), whose power follows from the noncentral t distribution. With few
    it is less powerful by up to 12 points, so there the effect is found by simulation.
    """
    if n < fewest_seeds(alpha):
        return None
    return _of_few(n, alpha, power) if n <= FEW else _of_many(n, alpha, power)


def _of_few(n: int, alpha: float, power: float) -> float:
    """Return the effect from normal draws with a fixed seed, within about 1 %.

    Of the 2**n sums under sign flips the observed one must be among the m largest, where m = alpha
    2**(n - 1) rounded down. Flipping a subset of the differences z + effect makes the sum larger if
    the subset's mean is negative, that is, if the mean of -z over it exceeds the effect. So a draw
    is found from the m-th largest of these means on, and -z is distributed like z.
    """
    import numpy as np

    m = floor(ldexp(alpha, n - 1))
    subsets = (np.arange(1, 2**n)[:, np.newaxis] >> np.arange(n)) & 1
    weights = (subsets / subsets.sum(axis=1, keepdims=True)).T.astype(np.float32)
    draws = min(20_000, 2**24 >> n)
    z = np.random.default_rng(0).standard_normal((draws, n), dtype=np.float32)
    found_from = [
        np.partition(part @ weights, -m, axis=1)[:, -m]
        for part in np.array_split(z, -(-draws * 2**n // 2**21))
    ]
    return float(np.quantile(np.concatenate(found_from), power))


def _of_many(n: int, alpha: float, power: float) -> float:
    from scipy.special import nctdtrinc, stdtrit

    critical = stdtrit(n - 1, 1 - alpha / 2)
    return float(nctdtrinc(n - 1, 1 - power, critical) / sqrt(n))


def power_lines(seeds: int, comparisons: int) -> list[str]:
    """Say what differences a study can show that compares so many activations with a baseline."""
    if not comparisons:
        return ["there is a single activation, and nothing to compare it with"]
    effect, corrected = detectable_effect(seeds), detectable_effect(seeds, LEVEL / comparisons)
    several = f"after Holm's correction for {comparisons} comparisons"
    fewest, fewest_corrected = fewest_seeds(LEVEL), fewest_seeds(LEVEL / comparisons)
    how_many = "1 seed" if seeds == 1 else f"{seeds} seeds"
    if effect is None:
        more = f", {fewest_corrected} or more {several}" if fewest_corrected > fewest else ""
        return [
            f"with {how_many} no difference, however large, can be significant at "
            f"{100 * LEVEL:g} % (the smallest possible p is {smallest_p_value(seeds):.3g}): "
            f"{fewest} seeds or more are needed{more}"
        ]
    found = (
        f"{how_many}: a difference of {effect:.2g} standard deviations of the paired differences "
        "is found 4 times in 5"
    )
    if comparisons == 1:
        return [found]
    if corrected is not None:
        return [f"{found}; {corrected:.2g} {several}"]
    return [
        found,
        f"{several} no difference, however large, can be significant: "
        f"{fewest_corrected} seeds or more are needed",
    ]
