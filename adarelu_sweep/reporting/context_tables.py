"""The tables around the results: published figures, the paper's protocol, the search."""

from adarelu_sweep.reporting.comparison_tables import arm_cells
from adarelu_sweep.reporting.evidence import Evidence
from adarelu_sweep.reporting.results import ArmSearch, Results
from adarelu_sweep.reporting.table import (
    ARM,
    NOTHING,
    Column,
    Table,
    brief,
    fixed,
    interval,
    of_all,
)
from adarelu_sweep.studies.published import (
    OPEN_QUESTIONS,
    PAPER,
    Difference,
    paper_accuracy,
    protocol_differences,
    standard_accuracy,
)


def published_table(evidence: Evidence) -> Table | None:
    """Published accuracies beside the measured ones; None where nothing is published."""
    rows = []
    for block in evidence.blocks:
        for arm in block.arms:
            paper = paper_accuracy(arm.arm.settings)
            standard = standard_accuracy(arm.arm.settings)
            if paper is None and standard is None:
                continue
            summary = arm.accuracy.summary
            rows.append(
                [
                    *arm_cells(arm.arm),
                    str(arm.arm.n),
                    fixed(summary.mean),
                    interval(summary.low, summary.high),
                    fixed(paper),
                    interval(*standard, digits=1) if standard else NOTHING,
                ]
            )
    if not rows:
        return None
    headings = ["n", "measured (%)", "95 % interval", "paper (%)", "public, standard recipe (%)"]
    return Table(
        "published",
        "Published figures beside the measured ones",
        [*ARM, *map(Column, headings)],
        rows,
        [
            f"Paper: {PAPER}; means of 20 models without a spread, interval or test. Public: "
            "repositories that train the same networks with crop and flip, weight decay 5e-4 and "
            "learning rate 0.1; shown where the arm is trained so. Figures under different "
            "protocols are not comparable as they stand: the differences from the paper's are "
            "listed below.",
        ],
    )


def protocol_table(results: Results) -> Table | None:
    """Where the study departs from the paper's protocol; None where the paper has no figures."""
    if all(paper_accuracy(arm.settings) is None for arm in results.arms):
        return None
    found: dict[Difference, list[str]] = {}
    for arm in results.arms:
        for difference in protocol_differences(arm.settings, arm.planned):
            found.setdefault(difference, []).append(arm.settings.arm)
    rows = [
        [
            *(difference.aspect, difference.paper, difference.here),
            "all" if len(arms) == len(results.arms) else ", ".join(arms),
        ]
        for difference, arms in found.items()
    ]
    notes = [OPEN_QUESTIONS]
    if not rows:
        notes.insert(0, "No difference in anything that the paper states.")
    return Table(
        "protocol",
        "Differences from the paper's protocol",
        [Column(heading, False) for heading in ["what", "paper", "this study", "arms"]],
        rows,
        notes,
    )


def search_table(searches: list[ArmSearch]) -> Table | None:
    """The best settings that the search found for every arm; None without a search."""
    if not searches:
        return None
    rows = []
    for search in searches:
        best = search.best
        settings = ", ".join(f"{k} {brief(v)}" for k, v in best.params.items()) if best else ""
        rows.append(
            [
                *(search.dataset, search.network, search.activation),
                of_all(search.finished, search.planned),
                str(search.count("pruned")),
                str(search.count("failed")),
                fixed(best.accuracy) if best else NOTHING,
                settings or NOTHING,
            ]
        )
    headings = ["finished", "pruned", "failed", "validation accuracy (%)"]
    return Table(
        "search",
        "Best settings found by the search",
        [*ARM, *map(Column, headings), Column("settings", False)],
        rows,
        [
            "Chosen by accuracy on a validation split that the training does not see; the test set "
            "was not looked at. The accuracy of the best is optimistic: it was chosen by it. "
            "Pruned trials are among the finished ones."
        ],
    )
