"""Comparisons and ranks, against published figures, other ways to them, and simulated studies."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import binom, friedmanchisquare, ttest_1samp, wilcoxon
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from adarelu_sweep.reporting.ranks import FEWEST_BLOCKS, Ranking, critical_difference, rank
from adarelu_sweep.reporting.statistics import (
    COVERAGE_NOTE,
    Comparison,
    Summary,
    compare,
    sign_flip_p_value,
    summarize,
    with_holm,
)
from adarelu_sweep.studies.power import detectable_effect

# Whatever is undefined must be found so beforehand, not by a warning.
pytestmark = pytest.mark.filterwarnings(
    "error",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # of what other tests left
)

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Crossed minus self-fertilized plants' heights, in eighths of an inch: the example with which
Fisher introduced the test (The Design of Experiments, 1935, section 21)."""

hundredths = st.lists(st.integers(-300, 300), min_size=1, max_size=10)
"""Differences of accuracies, in hundredths of a percentage point, so few that the test is exact."""


def against_zero(differences: list[float]) -> Comparison:
    return compare(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))


# An arm by itself


def test_a_summary_is_that_of_the_t_test() -> None:
    values = [94.1, 93.7, 95.2, 94.4, 94.0, 93.9]
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    summary = summarize(values)
    assert summary.n == 6
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.std == pytest.approx(np.std(values, ddof=1))
    assert (summary.low, summary.high) == pytest.approx((interval.low, interval.high))


def test_what_a_summary_cannot_know_is_none() -> None:
    assert summarize([]) == Summary(0)
    assert summarize([93.5]) == Summary(1, 93.5)
    assert summarize([10.0, 10.0, 10.0]) == Summary(3, 10.0, 0.0, 10.0, 10.0)
    for wrong in (nan, inf):
        assert summarize([93.5, wrong, 94]) == Summary(3)


# The sign-flip test


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([5], 1),  # 5 or -5
        ([1, 2, 3], 2 / 8),  # only 6 itself is as large
        ([3, 2, -1], 4 / 8),  # 6 and 4 itself
        ([2, 2, -2, 2], 2 * 5 / 16),  # 8, and 4 in four ways
        ([-1, -1, -1, -1, -1, -1], 2 / 64),
        ([0, 0, 1], 1),  # the zeros' signs change nothing: 1 in half of the ways
        ([0, 0, 0], 1),
        (DARWIN, 2 * 863 / 2**15),  # 863 of the 32,768 ways are as large, Fisher says
    ],
)
def test_the_p_value_is_that_of_counting_by_hand(differences: list[float], p: float) -> None:
    assert sign_flip_p_value(differences) == pytest.approx(p)
    assert against_zero(differences).p_value == pytest.approx(p)


def test_equally_spaced_differences_give_wilcoxons_exact_test() -> None:
    """Ranks are their own ranks, so that the sum of ranks and the sum are the same statistic."""
    differences = [1, 2, -3, 4, 5, 6, 7, -8, 9, 10, 11, 12]
    expected = wilcoxon(differences, method="exact").pvalue
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_many_differences_are_flipped_at_random_and_always_the_same() -> None:
    differences = [*DARWIN, 12, -20, 33, 8, -15]
    p = sign_flip_p_value(differences)
    sums = np.zeros(1)
    for difference in differences:  # all 2**20 ways
        sums = np.concatenate([sums + difference, sums - difference])
    exact = 2 * np.mean(sums >= sum(differences))
    assert p == pytest.approx(exact, abs=4 * sqrt(2 * exact / 100_000))
    assert p != exact
    assert sign_flip_p_value(differences) == p
    assert 0 < sign_flip_p_value([1.0] * 40) < 1e-4


@settings(deadline=None)
@given(hundredths, st.sampled_from([90.0, 33.33, 76.57]))
def test_rounding_does_not_break_ties(differences: list[int], base: float) -> None:
    values = {seed: base + difference / 100 for seed, difference in enumerate(differences)}
    comparison = compare(values, dict.fromkeys(values, base))
    whole = against_zero([float(difference) for difference in differences])
    assert comparison.p_value == whole.p_value
    assert (comparison.wins, comparison.ties) == (whole.wins, whole.ties)
    assert (comparison.low is None) == (whole.low is None)


@pytest.mark.parametrize(
    ("n", "level"),
    [(6, 1 / 32), (9, 12 / 256), pytest.param(12, 102 / 2048, marks=pytest.mark.long)],
    ids=["6 seeds, 3.1 %", "9 seeds, 4.7 %", "12 seeds, 5.0 %"],
)
def test_without_an_effect_an_exact_share_of_2000_studies_rejects(n: int, level: float) -> None:
    """At 5 %: the largest multiple of 2 / 2**n below it is what an exact test of n can reach."""
    seed = 31 + n
    print("seed", seed)
    drawn = np.random.default_rng(seed).standard_t(5, (2_000, n))
    rejected = sum(sign_flip_p_value(row) <= 0.05 for row in drawn.tolist())
    low, high = binom.interval(0.999, 2_000, level)
    assert low <= rejected <= high


# Paired comparisons


def test_only_the_seeds_of_both_are_compared_pairwise() -> None:
    comparison = compare({3: 90.0, 1: 95.0, 2: 93.0, 7: 10.0}, {2: 92.0, 3: 92.0, 1: 91.0, 8: 1.0})
    assert comparison.n == 3
    assert comparison.mean == pytest.approx((4 + 1 - 2) / 3)
    assert comparison.std == pytest.approx(3)
    assert (comparison.wins, comparison.ties, comparison.losses) == (2, 0, 1)
    assert comparison.win_probability == pytest.approx(2 / 3)
    assert comparison.p_holm is None
    assert comparison.detectable is None


def test_the_interval_is_bca() -> None:
    """Efron's formulas, from scratch, with other resamples."""
    x = np.array(DARWIN, dtype=float)
    n, mean = len(x), x.mean()
    means = np.random.default_rng(99).choice(x, (200_000, n)).mean(axis=1)
    bias = ndtri(np.mean(means < mean) + np.mean(means == mean) / 2)
    left_out = (x.sum() - x) / (n - 1)
    deviation = left_out.mean() - left_out
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    z = bias + ndtri([0.025, 0.975])
    low, high = np.quantile(means, ndtr(bias + z / (1 - acceleration * z)))
    comparison = against_zero(DARWIN)
    assert comparison.low == pytest.approx(low, abs=0.02 * (high - low))
    assert comparison.high == pytest.approx(high, abs=0.02 * (high - low))


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_covers_what_the_note_says(n: int) -> None:
    seed = 77 + n
    print("seed", seed)
    drawn = np.random.default_rng(seed).standard_normal((600, n)).tolist()
    intervals = [against_zero(row) for row in drawn]
    covering = sum(c.low <= 0 <= c.high for c in intervals)  # type: ignore[operator]
    stated = {3: 0.73, 10: 0.90}[n]
    assert f"{stated:.0%}".replace("%", " %") in COVERAGE_NOTE
    low, high = binom.interval(0.999, 600, stated)
    assert low <= covering <= high


def test_the_share_of_wins_has_wilsons_interval() -> None:
    z2 = ndtri(0.975) ** 2
    never = against_zero([-1.0, -2.0, -0.5, -1.5, -2.5, -3.0, -1.0, -1.1, -1.2, -1.3])
    assert (never.win_probability, never.win_low) == (0, 0)
    assert never.win_high == pytest.approx(z2 / (10 + z2))
    even = against_zero([1.0, -1.0, 0.0, 0.0, 2.0, -2.0])
    assert (even.wins, even.ties, even.losses, even.win_probability) == (2, 2, 2, 0.5)
    half = sqrt(z2 / (6 + z2)) / 2
    assert (even.win_low, even.win_high) == pytest.approx((0.5 - half, 0.5 + half))


def test_the_detectable_difference_is_in_the_values_unit() -> None:
    comparison = against_zero(DARWIN)
    assert comparison.detectable == pytest.approx(detectable_effect(15) * np.std(DARWIN, ddof=1))
    assert against_zero(DARWIN[:5]).detectable is None


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], Comparison(0)),
        ([2.0, nan], Comparison(2)),
        ([2.0, inf, 1.0], Comparison(3)),
        ([2.0], Comparison(1, 2.0, p_value=1.0, wins=1, win_probability=1.0)),
        ([2.0, 4.0], Comparison(2, 3.0, sqrt(2), p_value=0.5, wins=2, win_probability=1.0)),
        ([0.0] * 8, Comparison(8, 0.0, 0.0, p_value=1.0, ties=8, win_probability=0.5)),
        ([-1.5] * 8, Comparison(8, -1.5, 0.0, p_value=2 / 256, losses=8, win_probability=0.0)),
        ([0.1 + 0.2, 0.3, 0.3], Comparison(3, 0.3, 0.0, p_value=0.25, wins=3, win_probability=1.0)),
    ],
)
def test_what_a_comparison_cannot_know_is_none(
    differences: list[float], expected: Comparison
) -> None:
    comparison = against_zero(differences)
    share_is_known = comparison.win_low is not None and comparison.win_high is not None
    assert share_is_known == (expected.win_probability is not None)
    assert replace(comparison, win_low=None, win_high=None) == expected


@settings(deadline=None)
@given(hundredths)
def test_swapping_the_arms_changes_the_sign_only(differences: list[int]) -> None:
    values = {seed: float(difference) for seed, difference in enumerate(differences)}
    there, back = against_zero(list(values.values())), compare(dict.fromkeys(values, 0.0), values)
    assert back.mean == -there.mean  # type: ignore[operator]
    assert (back.n, back.std, back.detectable) == (there.n, there.std, there.detectable)
    assert back.p_value == there.p_value
    assert (back.wins, back.ties, back.losses) == (there.losses, there.ties, there.wins)
    assert back.win_low == pytest.approx(1 - there.win_high, abs=1e-9)  # type: ignore[operator]
    if len({abs(difference) for difference in differences}) == len(differences) > 2:
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))  # type: ignore[operator]


@settings(deadline=None)
@given(hundredths, st.permutations(range(10)), st.integers(-50, 50), st.sampled_from([0.25, 8.0]))
def test_neither_the_seeds_names_nor_the_level_nor_the_unit_matter(
    differences: list[int], names: list[int], level: int, unit: float
) -> None:
    seeds = names[: len(differences)]
    base = {seed: unit * (level + seed % 3) for seed in seeds}
    values = {s: base[s] + unit * d for s, d in zip(seeds, differences, strict=True)}
    moved, plain = compare(values, base), against_zero([float(d) for d in differences])
    for name in ("mean", "std", "low", "high", "detectable"):
        there, here = getattr(moved, name), getattr(plain, name)
        assert there == (None if here is None else pytest.approx(unit * here))
    for name in ("n", "p_value", "wins", "ties", "losses", "win_probability", "win_low"):
        assert getattr(moved, name) == getattr(plain, name)


@settings(deadline=None, max_examples=20)  # with a bootstrap each
@given(data=st.data(), n=st.integers(1, 40))
def test_any_share_has_wilsons_interval(data: st.DataObject, n: int) -> None:
    wins = data.draw(st.integers(0, n))
    ties = data.draw(st.integers(0, n - wins))
    found = against_zero([1.0] * wins + [0.0] * ties + [-1.0] * (n - wins - ties))
    expected = proportion_confint(wins + ties / 2, n, method="wilson")
    assert (found.win_low, found.win_high) == pytest.approx(expected, abs=1e-12)


# Holm's correction


@settings(deadline=None, max_examples=10)  # what can be detected is solved for each of them
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_of_any_p_values(p_values: list[float]) -> None:
    corrected = with_holm([Comparison(9, 1.0, 2.0, p_value=p) for p in p_values])
    expected = multipletests(p_values, method="holm")[1]
    assert [c.p_holm for c in corrected] == pytest.approx(expected)


def test_holms_correction_is_the_textbooks() -> None:
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which must not be below the one before it."""
    comparisons = [Comparison(9, 1.0, 2.0, p_value=p) for p in (0.01, 0.04, 0.03, 0.005)]
    corrected = with_holm(comparisons)
    assert [c.p_holm for c in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [replace(c, p_holm=None, detectable_holm=None) for c in corrected] == comparisons
    effect = detectable_effect(9, 0.05 / 4)
    assert [c.detectable_holm for c in corrected] == pytest.approx([2 * effect] * 4)


def test_holms_correction_leaves_out_what_has_no_p_value() -> None:
    known = Comparison(20, 1.0, 2.0, p_value=0.02, detectable=1.5)
    first, unknown, last = with_holm([known, Comparison(0), replace(known, p_value=0.8)])
    assert (first.p_holm, last.p_holm) == pytest.approx((0.04, 0.8))
    assert unknown == Comparison(0)
    assert with_holm([unknown]) == [unknown]
    assert with_holm([]) == []
    assert with_holm([known])[0].p_holm == pytest.approx(0.02)


# Ranks


def cells(table: Any, names: str = "abcdefgh") -> Mapping[str, Mapping[str, float]]:
    return {f"block {i}": dict(zip(names, row, strict=False)) for i, row in enumerate(table)}


def test_the_critical_difference_is_demsars() -> None:
    """His example of 4 classifiers on 14 data sets, and his table of critical values."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for k, q in enumerate(published, 2):
        assert critical_difference(k, k * (k + 1)) * sqrt(6) == pytest.approx(q, abs=0.0011)


def test_with_the_fewest_cells_some_difference_could_show() -> None:
    for k in range(3, 12):
        assert critical_difference(k, FEWEST_BLOCKS) < 0.9 * (k - 1)


def test_friedmans_test_is_that_of_scipys_documentation() -> None:
    x = np.random.default_rng(seed=18).random((6, 10))
    ranking = rank(cells(x.T))
    assert isinstance(ranking, Ranking)
    assert ranking.friedman_p == pytest.approx(0.043514520866727614)
    assert ranking.friedman_p == friedmanchisquare(*x).pvalue
    assert ranking.blocks == 10
    assert ranking.dropped == []


def test_ranks_count_from_the_best_and_ties_share_theirs() -> None:
    ranking = rank(cells([[90, 95, 95, 80], *[[91, 94, 93, 81]] * 5]))
    assert isinstance(ranking, Ranking)
    assert ranking.treatments == ["b", "c", "a", "d"]
    assert ranking.average_ranks == pytest.approx(
        {"a": 3, "b": (1.5 + 5) / 6, "c": (1.5 + 10) / 6, "d": 4}
    )
    assert ranking.p_values["b"]["d"] == ranking.p_values["d"]["b"] < 0.05


def test_activations_that_are_not_in_every_cell_are_dropped_and_named() -> None:
    table = cells([[1, 2, 3, 4]] * 4 + [[1, 2, 3]]) | {"last": {"a": 1, "b": 2, "c": 3, "d": nan}}
    ranking = rank(table)
    assert isinstance(ranking, Ranking)
    assert ranking.dropped == ["d"]
    assert ranking.treatments == ["c", "b", "a"]
    assert ranking.blocks == 6


def test_activations_that_always_tie_do_not_differ() -> None:
    ranking = rank(cells([[10, 10, 10]] * 6))
    assert isinstance(ranking, Ranking)
    assert ranking.friedman_p == 1
    assert set(ranking.average_ranks.values()) == {2}


@pytest.mark.parametrize(
    ("table", "here"),
    [
        ([], "0 activations have results in each of 0 combinations"),
        ([[1, 2, 3, 4]] * 4, "4 activations have results in each of 4 combinations"),
        ([[1]] + [[1, 2, 3, 4]] * 5, "1 activation has results in each of 6 combinations"),
    ],
)
def test_too_few_cells_or_activations_are_not_ranked(table: Any, here: str) -> None:
    sentence = rank(cells(table))
    assert isinstance(sentence, str)
    assert sentence.startswith("No average ranks and no critical-difference plot: they need 3 ")
    assert f"; here {here}" in sentence


@settings(deadline=None, max_examples=30)
@given(st.integers(5, 12), st.integers(3, 6), st.integers(0, 2**32 - 1))
def test_ranks_further_apart_than_the_critical_difference_are_those_that_differ(
    blocks: int, treatments: int, seed: int
) -> None:
    ranking = rank(cells(np.random.default_rng(seed).random((blocks, treatments))))
    assert isinstance(ranking, Ranking)
    for one, first in ranking.average_ranks.items():
        for other, second in ranking.average_ranks.items():
            apart = abs(first - second) - ranking.critical_difference
            if abs(apart) > 1e-6:
                assert (ranking.p_values[one][other] < 0.05) == (apart > 0)
