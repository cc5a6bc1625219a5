"""How steadily a training converges: curves by hand, and simulated spreads over seeds."""

from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, f

from adarelu_sweep.reporting.convergence import (
    epoch_to_epoch_deviation,
    epochs_or_more,
    epochs_to_threshold,
    least_learned,
    loss_area,
    spread,
    spread_ratio,
)

pytestmark = pytest.mark.filterwarnings(
    "error",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # of what other tests left
)

UNKNOWN = (None, None, None, None)
curve = st.lists(st.integers(0, 1000).map(lambda tenths: tenths / 10), min_size=5, max_size=12)


def curves(values: Any) -> dict[int, list[float]]:
    return dict(enumerate(np.asarray(values).tolist()))


def test_epochs_count_from_1_and_the_first_that_reaches_the_threshold_counts() -> None:
    accuracy = [10.0, 50.0, 90.0, 89.0, 95.0]
    assert epochs_to_threshold(accuracy, 5) == 1
    assert epochs_to_threshold(accuracy, 90) == 3
    assert epochs_to_threshold(accuracy, 95.1) is None
    assert epochs_to_threshold([], 0) is None
    assert epochs_to_threshold([nan, 50.0], 40) == 2


def test_what_counts_as_learned_lies_between_chance_and_100_percent() -> None:
    assert [least_learned(classes) for classes in (2, 10, 100)] == [75, 20, 2]
    for classes in range(2, 200):
        assert 100 / classes < least_learned(classes) < 100


def test_a_threshold_never_reached_counts_as_one_epoch_more_than_planned() -> None:
    assert epochs_or_more(3, 100) == 3
    assert epochs_or_more(None, 100) == 101


def test_the_deviation_is_that_of_the_changes_in_the_second_half() -> None:
    assert epoch_to_epoch_deviation([10, 50, 80, 83, 81, 82]) == pytest.approx(sqrt(4.5))
    assert epoch_to_epoch_deviation([10, 50, 80, 83, 81]) == pytest.approx(5 / sqrt(2))
    assert epoch_to_epoch_deviation([0, 0, 1, 2, 3, 4]) == 0


@pytest.mark.parametrize("accuracy", [[], [1.0], [1.0, 2, 3, 4], [1.0, 2, 3, 4, 5, nan]])
def test_a_deviation_needs_two_changes_between_finite_values(accuracy: list[float]) -> None:
    assert epoch_to_epoch_deviation(accuracy) is None


@given(curve, st.integers(-40, 40))
def test_a_deviation_knows_neither_level_nor_trend(accuracy: list[float], trend: int) -> None:
    tilted = [5 + value + trend * epoch for epoch, value in enumerate(accuracy)]
    known = epoch_to_epoch_deviation(accuracy)
    assert epoch_to_epoch_deviation(tilted) == pytest.approx(known, abs=1e-9)


def test_the_loss_area_is_that_of_the_trapezoids() -> None:
    losses = [2.0, 1.0, 0.5, 0.5]
    assert loss_area(losses) == pytest.approx(np.trapezoid(losses) / 3)
    assert loss_area([0.7] * 9) == pytest.approx(0.7)
    for unknown in ([], [1.0], [1.0, nan], [1.0, 0.5, inf]):
        assert loss_area(unknown) is None


def test_the_spread_is_over_the_epochs_that_all_seeds_have() -> None:
    assert spread({0: [1, 5, 9], 4: [3, 5], 7: [5, 8, 0]}) == pytest.approx([2, sqrt(3)])
    assert spread({0: [1, 5]}) == spread({}) == []
    assert spread({0: [1], 1: []}) == []


def test_the_ratio_is_of_the_mean_spreads_over_common_seeds_and_epochs() -> None:
    measured = {1: [0.0, 4.0, 1.0], 2: [4.0, 0.0, 9.0], 3: [2.0, 2.0, 5.0], 9: [99.0, 0.0, 0.0]}
    baseline = {3: [1.0, 3.0], 2: [2.0, 1.0], 1: [0.0, 2.0], 8: [99.0, 0.0]}
    assert spread_ratio(measured, baseline).ratio == pytest.approx((2 + 2) / (1 + 1))


def test_a_ratio_of_undefined_spreads_is_unknown() -> None:
    random = curves(np.random.default_rng(2).random((6, 4)))
    flat = {seed: [10.0, 10.1, 10.2, 10.3] for seed in random}
    assert spread_ratio({}, random) == UNKNOWN
    assert spread_ratio({0: random[0]}, random) == UNKNOWN
    assert spread_ratio(random, {seed: [] for seed in random}) == UNKNOWN
    assert spread_ratio(random | {3: [1.0, nan, 2.0, 2.0]}, random) == UNKNOWN
    assert spread_ratio(random, flat) == UNKNOWN
    two = {seed: random[seed] for seed in (0, 1)}
    ratio, *rest = spread_ratio(two, {0: [1.0, 2.0], 1: [2.0, 1.0]})
    assert ratio is not None
    assert rest == [None, None, None]


def test_seeds_that_never_learn_leave_a_ratio() -> None:
    """Some of the baseline's curves are equal: a few resamples have no ratio, or too many."""
    random = curves(50 + np.random.default_rng(3).random((10, 4)))
    some = random | dict.fromkeys(range(5), [10.0] * 4)
    assert None not in spread_ratio(random, some)
    most = random | dict.fromkeys(range(9), [10.0] * 4)
    ratio, low, high, p = spread_ratio(random, most)
    assert (low, high) == (None, None)
    assert ratio is not None
    assert p is not None
    flat = spread_ratio(dict.fromkeys(random, [10.0] * 4), random)
    assert flat == (0, 0, 0, None)


def test_equal_deviations_do_not_differ() -> None:
    random = np.random.default_rng(4).random((6, 4))
    assert spread_ratio(curves(random), curves(random)) == pytest.approx((1, 1, 1, 1))
    shifted = spread_ratio(curves(random + 7.3), curves(random))
    assert shifted == pytest.approx((1, 1, 1, 1))
    assert spread_ratio(curves(9 - random), curves(random)).p_value == 1


def test_the_test_of_pitman_and_morgan_is_that_of_the_variance_ratio() -> None:
    """In Pitman's form: F = s1^2 / s2^2, and t = (F - 1) sqrt(n - 2) / (2 sqrt(F (1 - r^2)))."""
    first, second = np.random.default_rng(5).multivariate_normal([0, 0], [[4, 1], [1, 1]], 12).T
    ratio, r = np.var(first) / np.var(second), np.corrcoef(first, second)[0, 1]
    t = (ratio - 1) * sqrt(10) / (2 * sqrt(ratio * (1 - r**2)))
    p = spread_ratio(curves(first[:, None]), curves(second[:, None])).p_value
    assert p == pytest.approx(f.sf(t**2, 1, 10))


@settings(deadline=None, max_examples=50)
@given(
    st.integers(3, 8),
    st.integers(1, 5),
    st.permutations(range(8)),
    st.sampled_from([0.25, 1.0, 8.0]),
    st.integers(0, 2**32 - 1),
)
def test_a_ratio_knows_neither_level_nor_common_unit(
    seeds: int, epochs: int, order: list[int], unit: float, seed: int
) -> None:
    one, other = np.random.default_rng(seed).standard_normal((2, seeds, epochs))
    plain = spread_ratio(curves(one), curves(other))
    moved = spread_ratio(curves(90 + unit * one), curves(20 + unit * other))
    assert moved == pytest.approx(plain, rel=1e-6)
    swapped = spread_ratio(curves(other), curves(one))
    assert swapped.ratio == pytest.approx(1 / plain.ratio)  # type: ignore[operator]
    assert swapped.p_value == pytest.approx(plain.p_value)
    keys = [key for key in order if key < seeds]
    again = spread_ratio({k: curves(one)[k] for k in keys}, curves(other))
    assert again == plain


def test_equal_spreads_are_covered_and_rarely_rejected() -> None:
    seed = 41
    print("seed", seed)
    generator = np.random.default_rng(seed)
    studies, n = 400, 10
    covered = rejected = 0
    for _ in range(studies):
        common, own = generator.standard_normal((n, 1)), generator.standard_normal((2, n, 5))
        ratio, low, high, p = spread_ratio(curves(common + own[0]), curves(common + own[1]))
        assert low < ratio < high  # type: ignore[operator]
        covered += low <= 1 <= high  # type: ignore[operator]
        rejected += p <= 0.05  # type: ignore[operator]
    low, high = binom.interval(0.999, studies, 0.05)
    assert low <= rejected <= high
    assert covered >= binom.ppf(0.001, studies, 0.88)
