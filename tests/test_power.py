"""What a number of seeds can show, against closed forms, statsmodels and simulated studies."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binom, permutation_test
from statsmodels.stats.power import TTestPower

from adarelu_sweep.reporting.statistics import sign_flip_p_value
from adarelu_sweep.studies.power import (
    detectable_effect,
    fewest_seeds,
    power_lines,
    smallest_p_value,
)

STUDIES = 2_000


def test_the_smallest_p_values() -> None:
    assert [smallest_p_value(n) for n in range(1, 7)] == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=10))
def test_the_smallest_p_value_is_what_the_test_gives_if_every_seed_wins(wins: list[float]) -> None:
    assert sign_flip_p_value(wins) == pytest.approx(smallest_p_value(len(wins)))


def test_the_fewest_seeds() -> None:
    assert fewest_seeds(0.0625) == 5
    assert [fewest_seeds(0.05 / m) for m in (1, 2, 3, 4, 10)] == [6, 7, 7, 8, 9]
    with pytest.raises(ValueError, match="no test reaches p = 0"):
        fewest_seeds(0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.floats(1e-6, 0.5))
def test_an_effect_is_detectable_from_the_fewest_seeds_on(n: int, alpha: float) -> None:
    assert (detectable_effect(n, alpha) is None) == (smallest_p_value(n) > alpha)


def test_where_every_seed_must_win_the_effect_has_a_closed_form() -> None:
    """All n of the differences are positive with the probability of one to the power of n."""
    for n, alpha in ((6, 0.05), (7, 0.05 / 3), (10, 0.003), (12, 0.0007)):
        assert detectable_effect(n, alpha) == pytest.approx(ndtri(0.8 ** (1 / n)), rel=0.02)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_many_seeds_find_what_the_t_test_finds(alpha: float, power: float) -> None:
    for n in (13, 20, 100, 1_000):
        by_t = TTestPower().solve_power(nobs=n, alpha=alpha, power=power, alternative="two-sided")
        assert detectable_effect(n, alpha, power) == pytest.approx(by_t, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_more_seeds_find_less_also_where_the_methods_meet(alpha: float) -> None:
    effects = [detectable_effect(n, alpha) for n in range(fewest_seeds(alpha), 25)]
    assert all(more < fewer for fewer, more in pairwise(effects))
    assert all(detectable_effect(n, alpha) < detectable_effect(n, alpha / 2) for n in range(8, 25))


def one_by_one(differences: Any) -> Any:
    return np.array([sign_flip_p_value(row) for row in differences.tolist()])


def all_at_once(differences: Any) -> Any:
    return permutation_test(
        (differences,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        n_resamples=1_999,
        batch=20,
        axis=1,
        rng=3,
    ).pvalue


@pytest.mark.parametrize(
    ("n", "alpha", "test"),
    [
        (6, 0.05, one_by_one),
        (8, 0.05, one_by_one),
        (8, 0.05 / 3, one_by_one),
        (10, 0.05 / 3, all_at_once),
        (12, 0.05, all_at_once),
        (13, 0.05, all_at_once),
        (20, 0.05, all_at_once),
        (20, 0.05 / 3, all_at_once),
    ],
)
def test_a_simulated_effect_of_that_size_is_found_4_times_in_5(
    n: int, alpha: float, test: Callable[[Any], Any]
) -> None:
    seed = 20_000 + n
    print("seed", seed)
    effect = detectable_effect(n, alpha)
    drawn = np.random.default_rng(seed).standard_normal((STUDIES, n)) + effect
    found = int(((test(drawn) <= alpha) & (drawn.mean(axis=1) > 0)).sum())
    low, high = binom.interval(0.999, STUDIES, 0.8)
    assert low <= found <= high


# In words


def test_few_seeds_are_told_how_many_are_needed() -> None:
    nothing = "no difference, however large, can be significant at 5 % (the smallest possible p is"
    assert power_lines(5, 3) == [
        f"with 5 seeds {nothing} 0.0625): 6 seeds or more are needed, 7 or more after Holm's "
        "correction for 3 comparisons"
    ]
    assert power_lines(1, 1) == [f"with 1 seed {nothing} 1): 6 seeds or more are needed"]


def test_enough_seeds_are_told_what_they_find() -> None:
    assert power_lines(20, 3) == [
        "20 seeds: a difference of 0.66 standard deviations of the paired differences is found "
        "4 times in 5; 0.78 after Holm's correction for 3 comparisons"
    ]
    assert power_lines(20, 1) == [
        "20 seeds: a difference of 0.66 standard deviations of the paired differences is found "
        "4 times in 5"
    ]


def test_enough_seeds_for_one_comparison_may_be_too_few_for_several() -> None:
    found, corrected = power_lines(6, 3)
    assert found.startswith("6 seeds: a difference of 1.8 standard deviations")
    assert corrected == (
        "after Holm's correction for 3 comparisons no difference, however large, can be "
        "significant: 7 seeds or more are needed"
    )


def test_a_single_activation_has_nothing_to_compare() -> None:
    for seeds in (1, 20):
        assert power_lines(seeds, 0) == [
            "there is a single activation, and nothing to compare it with"
        ]
