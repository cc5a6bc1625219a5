"""What the numbers say, and what they do not say, in plain words."""

from adarelu_sweep.reporting.evidence import ArmEvidence, BlockEvidence, Evidence
from adarelu_sweep.reporting.results import Arm, ArmSearch, Results
from adarelu_sweep.reporting.statistics import Comparison
from adarelu_sweep.reporting.table import fixed, interval, probability
from adarelu_sweep.studies.power import LEVEL, fewest_seeds, smallest_p_value
from adarelu_sweep.wording import count


def state_words(results: Results) -> list[str]:
    """Say how far the study is, and what its numbers are of; the first thing of any report."""
    planned = sum(arm.planned for arm in results.arms)
    so_far = f"{results.finished} of {planned} trials have a result"
    lines = {
        "running": [f"This study is still running: {so_far}. Everything here may change."],
        "interrupted": [
            f"This study was interrupted: {so_far}. Go on with: adarelu-sweep resume {results.name}"
        ],
        "failed": [f"Not every trial came to its end: {so_far}, {results.counts.failed} failed."],
        "complete": [],
    }[results.state]
    lines += [results.subset] if results.subset else []
    if results.in_haste:
        lines.append(
            "Convergence, curves and what the activations did are left out, for this was written "
            f"in haste; they are in what 'adarelu-sweep report {results.name}' writes."
        )
    elif missing := results.without_history:
        lines.append(
            f"The course of {count(missing, 'finished trial')} is not known, because the "
            "checkpoint is gone or unreadable: convergence and curves are without it."
        )
    return lines


def findings(evidence: Evidence) -> list[tuple[str, list[str]]]:
    """Return, for every data set and network, its label and a sentence per comparison."""
    results = evidence.results
    return [(block.block.label, _block_words(block, results)) for block in evidence.blocks]


def _block_words(block: BlockEvidence, results: Results) -> list[str]:
    lines = [] if block.contenders else [_alone(block.arms[0], results.so_far)]
    lines += [_comparison_words(arm, block, results.so_far) for arm in block.contenders]
    lines += [
        _search_words(search, over=not results.so_far)
        for search in results.searches
        if (search.dataset, search.network) == (block.block.dataset, block.block.network)
        and (search.finished < search.planned or search.best is None)
    ]
    lines += [_diverged(arm.arm) for arm in block.arms if arm.arm.diverged]
    return lines + [_not_converged(arm, block) for arm in block.arms if not arm.converged]


def _alone(arm: ArmEvidence, so_far: str) -> str:
    summary = arm.accuracy.summary
    if summary.mean is None:
        return f"{arm.activation}: no result{so_far}."
    mean = f"{arm.activation} reaches {fixed(summary.mean)} % ({count(summary.n, 'seed')})"
    return f"{mean}; there is no other activation to compare it with."


def _comparison_words(arm: ArmEvidence, block: BlockEvidence, so_far: str) -> str:
    name, baseline, comparison = arm.activation, block.baseline, arm.accuracy.comparison
    if comparison is None or not comparison.n or comparison.mean is None:
        return f"{name} against {baseline}: no seed has a result of both{so_far}."
    seeds = count(comparison.n, "seed")
    side = "above" if comparison.mean > 0 else "below"
    size = f"{fixed(abs(comparison.mean))} points {side} {baseline}"
    if comparison.p_holm is not None and comparison.p_holm <= LEVEL:
        return (
            f"{name} is {size} (95 % interval {_interval(comparison)}, {seeds}, "
            f"Holm p {probability(comparison.p_holm)})."
        )
    seen = f"the same mean as {baseline}" if comparison.mean == 0 else size
    details = [] if comparison.low is None else [f"95 % interval {_interval(comparison)}"]
    details += [seeds]
    if comparison.p_holm is not None:
        details.append(f"Holm p {probability(comparison.p_holm)}")
    return (
        f"{name} against {baseline}: no difference shown. It is {seen} ({', '.join(details)}); "
        f"{_what_could_be_seen(comparison, len(block.contenders))}."
    )


def _what_could_be_seen(comparison: Comparison, comparisons: int) -> str:
    """Say what so few seeds could have shown: no difference shown is not no difference."""
    level = LEVEL / max(comparisons, 1)
    after = "" if comparisons < 2 else f", after Holm's correction for {comparisons} comparisons"
    if smallest_p_value(comparison.n) > level:
        return (
            f"with {count(comparison.n, 'seed')} no difference, however large, could have been "
            f"shown: {fewest_seeds(level)} or more are needed{after}"
        )
    if not comparison.detectable_holm:
        return "their differences are all alike, so what could have been found is not known"
    return (
        f"with {count(comparison.n, 'seed')} only differences of "
        f"{fixed(comparison.detectable_holm)} points or more would probably have been found"
    )


def _interval(comparison: Comparison) -> str:
    return interval(comparison.low, comparison.high, sign=True)


def _diverged(arm: Arm) -> str:
    return (
        f"{arm.activation}: {arm.diverged} of {count(arm.n, 'trial')} diverged, and "
        f"{'counts' if arm.diverged == 1 else 'count'} with the accuracy of the last epoch."
    )


def _search_words(search: ArmSearch, over: bool) -> str:
    """Say that an arm was tuned less than planned, or has no setting to be trained with."""
    trials = f"{search.finished} of {count(search.planned, 'trial')} of its search finished"
    if search.given_up:
        trials += f", and it was given up after {count(search.count('failed'), 'failed one')}"
    elif not over:
        return f"{search.activation}: {trials} so far."
    if search.best is None:
        return f"{search.activation}: {trials}; none was trained to its end, so it has no result."
    if search.finished < search.planned:
        trials += ", so it was tuned less than was planned"
    return f"{search.activation}: {trials}."


def _not_converged(arm: ArmEvidence, block: BlockEvidence) -> str:
    return (
        f"{arm.activation}: no seed reached the threshold of {fixed(block.threshold)} %, so how "
        "steady its course is, and how alike its seeds are, says nothing about stability."
    )
