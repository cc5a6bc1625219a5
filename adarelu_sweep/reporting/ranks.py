"""Average ranks of the activations over data sets and networks (Demsar, 2006, JMLR 7, 1-30)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, sqrt

from adarelu_sweep.studies.power import LEVEL
from adarelu_sweep.wording import count

FEWEST_TREATMENTS = 3
"""Two are compared directly, by their paired differences."""

FEWEST_BLOCKS = 5
"""Both tests are approximations for many blocks (Friedman's, by Demsar, for more than 10), and
below this they would be misleading. From 5 on the critical difference also lies well below k - 1,
the largest that the average ranks of k treatments can have: some difference could show."""


@dataclass(frozen=True)
class Ranking:
    """What the ranks within the blocks (data set x network) say about the treatments.

    Blocks are taken to be independent, which networks trained on the same data set are not quite.
    """

    treatments: list[str]
    """Best average rank first."""
    average_ranks: dict[str, float]
    """1 is the best; ties share the average of their ranks."""
    blocks: int
    friedman_p: float
    """Friedman's test that all treatments rank alike, corrected for ties."""
    critical_difference: float
    """Average ranks further apart differ at the 5 % level, by Nemenyi's test."""
    p_values: dict[str, dict[str, float]]
    """Nemenyi's test of every pair of treatments; symmetric, 1 on the diagonal."""
    dropped: list[str]
    """Treatments that are not in every block, and so not ranked."""


def rank(blocks: Mapping[str, Mapping[str, float]]) -> Ranking | str:
    """Rank treatments by block -> treatment -> value, where higher is better.

    A value that is not finite counts as missing. Returns a sentence that says why there is no
    ranking where too little is given for one.
    """
    known = [{t: v for t, v in block.items() if isfinite(v)} for block in blocks.values()]
    every = list(dict.fromkeys(treatment for block in blocks.values() for treatment in block))
    common = [treatment for treatment in every if all(treatment in block for block in known)]
    if len(known) < FEWEST_BLOCKS or len(common) < FEWEST_TREATMENTS:
        return (
            f"No average ranks and no critical-difference plot: they need {FEWEST_TREATMENTS} "
            f"activations or more that have results in each of {FEWEST_BLOCKS} or more "
            "combinations of data set and network; here "
            f"{count(len(common), 'activation has', 'activations have')} results in each of "
            f"{count(len(known), 'combination', 'combinations')}."
        )
    return _ranked(
        [[block[treatment] for treatment in common] for block in known],
        common,
        [treatment for treatment in every if treatment not in common],
    )


def critical_difference(treatments: int, blocks: int) -> float:
    """Return how far average ranks must lie apart to differ at the 5 % level."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - LEVEL, treatments, inf)) / sqrt(2)
    return q * sqrt(treatments * (treatments + 1) / (6 * blocks))


def _ranked(table: list[list[float]], treatments: list[str], dropped: list[str]) -> Ranking:
    """Rank a table with a row per block and a column per treatment."""
    import numpy as np
    from scikit_posthocs import posthoc_nemenyi_friedman
    from scipy.stats import friedmanchisquare, rankdata

    values = np.array(table)
    ranks = rankdata(-values, axis=1)
    all_tied = bool((ranks == ranks[0, 0]).all())  # then Friedman's statistic is 0 / 0
    averages = dict(zip(treatments, ranks.mean(axis=0).tolist(), strict=True))
    p_values = posthoc_nemenyi_friedman(values).to_numpy().tolist()
    return Ranking(
        treatments=sorted(treatments, key=averages.__getitem__),
        average_ranks=averages,
        blocks=len(table),
        friedman_p=1.0 if all_tied else float(friedmanchisquare(*values.T).pvalue),
        critical_difference=critical_difference(len(treatments), len(table)),
        p_values={
            treatment: dict(zip(treatments, row, strict=True))
            for treatment, row in zip(treatments, p_values, strict=True)
        },
        dropped=dropped,
    )
