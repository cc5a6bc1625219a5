"""The tables that compare: accuracy, differences to the baseline, convergence, average ranks."""

from collections.abc import Callable
from math import isfinite

from adarelu_sweep.reporting.evidence import ArmEvidence, BlockEvidence, Evidence, Measured
from adarelu_sweep.reporting.ranks import Ranking
from adarelu_sweep.reporting.results import Arm
from adarelu_sweep.reporting.statistics import COVERAGE_NOTE, Comparison
from adarelu_sweep.reporting.table import (
    ARM,
    NOTHING,
    Column,
    Table,
    fixed,
    interval,
    of_all,
    percent,
    probability,
)

NOT_CONVERGED = "\N{DAGGER}"
"""Marks an arm of which no seed reached the threshold, where that makes a number mean nothing."""


def accuracy_table(evidence: Evidence) -> Table:
    """Per arm: n, mean, deviation, 95 % interval of the mean, diverged trials."""
    headings = ["n", "test accuracy (%)", "std", "95 % interval", "diverged"]
    rows = []
    for block in evidence.blocks:
        for arm in block.arms:
            summary = arm.accuracy.summary
            rows.append(
                [
                    *arm_cells(arm.arm),
                    of_all(arm.arm.n, arm.arm.planned),
                    fixed(summary.mean),
                    fixed(summary.std),
                    interval(summary.low, summary.high),
                    str(arm.arm.diverged),
                ]
            )
    notes = [
        "Mean over seeds of the test accuracy at the last epoch, never of the best; sample "
        "deviation; Student t interval of the mean. Diverged trials count."
    ]
    results = evidence.results
    notes += [results.subset] if results.subset else []
    if results.finished < sum(arm.planned for arm in results.arms):
        notes.append("Not every trial has a result: the study is not complete.")
    return Table("accuracy", "Test accuracy at the last epoch", _columns(headings), rows, notes)


def comparison_table(evidence: Evidence) -> Table:
    """Every arm against the baseline of its block, paired by seed."""
    headings = [
        *("n", "difference (points)", "95 % interval", "p", "Holm p", "wins/ties/losses"),
        *("P(win) (%)", "95 % interval", "detectable (points)"),
    ]
    rows = [
        [*arm_cells(arm.arm), *_compared(arm.accuracy.comparison)]
        for block in evidence.blocks
        for arm in block.contenders
    ]
    baseline = evidence.results.baseline
    return Table(
        "comparisons",
        f"Test accuracy against {baseline}, paired by seed",
        _columns(headings),
        rows,
        [
            f"Difference: activation minus {baseline}, over the n seeds that both have. Interval: "
            "BCa bootstrap. p: two-sided sign-flip permutation test; Holm p: corrected for the "
            "comparisons of the same data set and network. P(win): share of seeds that win, ties "
            "half. Detectable: the smallest true difference that so many seeds find 4 times in 5 "
            "at the level that Holm's first step uses.",
            COVERAGE_NOTE,
        ],
    )


def convergence_tables(evidence: Evidence) -> list[Table]:
    """Epochs to a threshold, steadiness, loss area and spread over seeds; each with its test."""
    baseline = evidence.results.baseline
    paired = (
        f"Difference: activation minus {baseline}, paired by seed; BCa bootstrap interval; "
        "two-sided sign-flip permutation test with Holm's correction."
    )
    unsteady = _not_compared(evidence)
    return [
        _measure_table(
            evidence,
            "convergence-epochs",
            "Epochs to the threshold",
            "epochs",
            lambda arm: arm.epochs_to_threshold,
            [
                *map(_threshold, evidence.blocks),
                "A trial that never reaches it, or diverges before it does, counts as one epoch "
                "more than were planned, which is a lower bound.",
                paired,
            ],
            1,
            ("reached", lambda arm: f"{arm.reached} of {len(arm.epochs_to_threshold.values)}"),
        ),
        _measure_table(
            evidence,
            "convergence-steadiness",
            "Deviation of the test accuracy from epoch to epoch",
            "points",
            lambda arm: arm.deviation,
            [
                "Standard deviation of the changes of the test accuracy from one epoch to the next "
                "over the second half of the epochs: lower is steadier. Of a diverged trial, the "
                "epochs that it had.",
                *unsteady,
                paired,
            ],
            2,
            cells=_marked_cells,
        ),
        _measure_table(
            evidence,
            "convergence-loss",
            "Area under the training loss, per epoch",
            "nats",
            lambda arm: arm.loss_area,
            [
                "Trapezoids, divided by the length of the curve: lower is faster. A diverged "
                "trial has none: its loss is not finite. n: trials that have one.",
                *unsteady,
                paired,
            ],
            4,
            ("diverged, without one", lambda arm: str(arm.arm.diverged)),
            _marked_cells,
        ),
        _spread_table(evidence),
    ]


def ranks_table(evidence: Evidence) -> Table | None:
    """Average ranks over data sets and networks; None where there is too little to rank."""
    ranking = evidence.ranking
    if not isinstance(ranking, Ranking):
        return None
    dropped = ranking.dropped
    return Table(
        "ranks",
        "Average ranks over data sets and networks",
        [Column("activation", False), Column("average rank")],
        [[label, fixed(ranking.average_ranks[label])] for label in ranking.treatments],
        [
            f"Rank 1 is the highest mean accuracy; over {ranking.blocks} combinations of data set "
            f"and network. Friedman test: p {probability(ranking.friedman_p)}. Nemenyi test at "
            f"5 %: ranks differ if they are more than {fixed(ranking.critical_difference)} apart."
            + (f" Not ranked, for want of results: {', '.join(dropped)}." if dropped else "")
        ],
    )


def arm_cells(arm: Arm) -> list[str]:
    """Return the cells under ``ARM``."""
    return [arm.dataset, arm.network, arm.activation]


def _columns(headings: list[str]) -> list[Column]:
    return [*ARM, *map(Column, headings)]


def _compared(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["0", *[NOTHING] * 8]
    return [
        str(comparison.n),
        fixed(comparison.mean, sign=True),
        interval(comparison.low, comparison.high, sign=True),
        probability(comparison.p_value),
        probability(comparison.p_holm),
        f"{comparison.wins}/{comparison.ties}/{comparison.losses}",
        percent(comparison.win_probability, 0),
        _percents(comparison.win_low, comparison.win_high),
        fixed(comparison.detectable_holm),
    ]


def _percents(low: float | None, high: float | None) -> str:
    known = low is not None and high is not None and isfinite(low) and isfinite(high)
    return f"{percent(low, 0)} to {percent(high, 0)}" if known else NOTHING


def _measure_table(
    evidence: Evidence,
    key: str,
    title: str,
    unit: str,
    measured: Callable[[ArmEvidence], Measured],
    notes: list[str],
    digits: int,
    more: tuple[str, Callable[[ArmEvidence], str]] | None = None,
    cells: Callable[[ArmEvidence], list[str]] = lambda arm: arm_cells(arm.arm),
) -> Table:
    """Return a measure's table; ``more`` is a further column, ``cells`` gives those of ``ARM``."""
    rows = []
    for block in evidence.blocks:
        for arm in block.arms:
            measure = measured(arm)
            summary, comparison = measure.summary, measure.comparison
            row = [*cells(arm), of_all(summary.n, arm.arm.n)]
            row += [more[1](arm)] if more else []
            row += [fixed(summary.mean, digits), fixed(summary.std, digits)]
            if comparison is None:
                row += [NOTHING] * 3
            else:
                row += [
                    fixed(comparison.mean, digits, sign=True),
                    interval(comparison.low, comparison.high, digits, sign=True),
                    probability(comparison.p_holm),
                ]
            rows.append(row)
    headings = ["n", *([more[0]] if more else []), f"mean ({unit})", "std"]
    headings += [f"difference ({unit})", "95 % interval", "Holm p"]
    return Table(key, title, _columns(headings), rows, notes)


def _spread_table(evidence: Evidence) -> Table:
    rows = []
    for block in evidence.blocks:
        for arm in block.arms:
            mean = sum(arm.spread) / len(arm.spread) if arm.spread else None
            last = arm.spread[-1] if arm.spread else None
            ratio, low, high, p = arm.spread_ratio or (None, None, None, None)
            seeds = of_all(len(arm.arm.curves("test/accuracy")), arm.arm.n)
            cells = [seeds, fixed(mean), fixed(last), fixed(ratio), interval(low, high)]
            rows.append([*_marked_cells(arm), *cells, probability(p)])
    headings = ["n", "mean over epochs (points)", "last epoch (points)"]
    headings += ["ratio", "95 % interval", "p (last epoch)"]
    return Table(
        "convergence-spread",
        "Spread of the test accuracy over seeds",
        _columns(headings),
        rows,
        [
            "Sample deviation over the seeds at every epoch; a diverged trial keeps its last "
            "accuracy up to the last planned epoch. Ratio: mean over epochs relative to "
            f"{evidence.results.baseline}'s, over the same seeds, with a bootstrap interval over "
            "seeds: below 1 is more alike. p: Pitman-Morgan test of equal variances at the last "
            "epoch, not corrected.",
            *_not_compared(evidence),
        ],
    )


def _marked_cells(arm: ArmEvidence) -> list[str]:
    """Return the cells under ``ARM``, marked where steadiness is that of not converging."""
    dataset, network, activation = arm_cells(arm.arm)
    return [dataset, network, activation if arm.converged else f"{activation} {NOT_CONVERGED}"]


def _not_compared(evidence: Evidence) -> list[str]:
    """Say which arms are not compared by their steadiness, and why."""
    notes = []
    for block in evidence.blocks:
        if block.contenders and not block.steadiness_compared:
            reached = f"no seed of {block.baseline} reached the threshold"
            reason = block.origin if block.threshold is None else reached
            notes.append(f"{block.block.label}: not compared, for {reason}.")
    if any(not arm.converged for block in evidence.blocks for arm in block.arms):
        notes.append(
            f"{NOT_CONVERGED} No seed reached the threshold: steadiness, loss area and spread are "
            "those of not learning, which say nothing about stability, and are not compared."
        )
    return notes


def _threshold(block: BlockEvidence) -> str:
    """Say which accuracy counts as converged in a block, and where it comes from."""
    label = block.block.label
    if block.threshold is None:
        return f"{label}: no threshold, for {block.origin}."
    return f"{label}: the threshold is {fixed(block.threshold)} %, {block.origin}."
