"""The report's sections: what stands under which heading, in every format."""

from dataclasses import dataclass, field

from adarelu_sweep.reporting.behaviour_tables import (
    batch_size_table,
    branch_table,
    dead_unit_table,
)
from adarelu_sweep.reporting.comparison_tables import (
    accuracy_table,
    comparison_table,
    convergence_tables,
    ranks_table,
)
from adarelu_sweep.reporting.context_tables import (
    protocol_table,
    published_table,
    search_table,
)
from adarelu_sweep.reporting.evidence import Evidence
from adarelu_sweep.reporting.results import Results
from adarelu_sweep.reporting.table import Table


@dataclass(frozen=True)
class Section:
    """A heading, and the text and the tables under it."""

    key: str
    title: str
    tables: list[Table]
    text: list[str] = field(default_factory=list)


def sections(evidence: Evidence) -> list[Section]:
    """Return the sections for which there is something to show, in the order of reading."""
    results = evidence.results
    compared = any(block.contenders for block in evidence.blocks)
    has_curves = any(arm.curves("test/accuracy") for arm in results.arms)
    ranking = [] if not isinstance(evidence.ranking, str) else [evidence.ranking]
    all_sections = [
        Section(
            "accuracy",
            "Accuracy",
            [accuracy_table(evidence), *([comparison_table(evidence)] if compared else [])],
        ),
        Section("activations", "Activations", [], [_described(results)]),
        Section(
            "convergence",
            "Convergence",
            convergence_tables(evidence) if has_curves else [],
            []
            if has_curves or results.in_haste
            else ["No finished trial has a history to tell it from."],
        ),
        Section("branches", "AdaReLU's branches", _there(branch_table(results))),
        Section("dead-units", "Dead units", _there(dead_unit_table(results))),
        Section("batch-size", "Dependence on the batch", _there(batch_size_table(results))),
        Section("ranks", "Across data sets and networks", _there(ranks_table(evidence)), ranking),
        Section(
            "published",
            "Beside published figures",
            _there(published_table(evidence), protocol_table(results)),
        ),
        Section("search", "Search", _there(search_table(results.searches))),
    ]
    return [section for section in all_sections if section.tables or section.text]


def _described(results: Results) -> str:
    """Name the activations with all the arguments that they were trained with."""
    labels = [variant.activation for variant in results.variants]
    shown = []
    for variant in results.variants:
        name = variant.label
        if name == variant.activation and variant.arguments:
            name = f"{variant.component.name} ({variant.arguments})"
        several = labels.count(variant.activation) > 1
        shown.append(f"{name} in {' and '.join(variant.blocks)}" if several else name)
    separator = "; " if any(", " in name for name in shown) else ", "
    return f"Compared: {separator.join(shown)}. The baseline is {results.baseline}."


def _there(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]
