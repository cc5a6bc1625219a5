"""A study's results whole: for a terminal, as Markdown, and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping

from adarelu_sweep.reporting import render
from adarelu_sweep.reporting.comparison_tables import accuracy_table, comparison_table
from adarelu_sweep.reporting.evidence import weigh
from adarelu_sweep.reporting.results import Results
from adarelu_sweep.reporting.sections import sections
from adarelu_sweep.reporting.sentences import findings, state_words
from adarelu_sweep.reporting.table import Table

Pictures = Mapping[str, Iterable[tuple[str, str]]]
"""A section's key to the captions and paths of its figures."""


def as_table(results: Results) -> str:
    """Return accuracy, comparisons and findings for a terminal, ending in a line break."""
    lines = [results.name, *state_words(results), ""]
    lines += [render.as_text(table) for table in _summary_tables(results)]
    for label, sentences in findings(weigh(results)):
        lines += [f"{label}:", *(f"  {sentence}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def as_summary(results: Results) -> str:
    """Return state, accuracy, findings and comparisons as Markdown, for a run's page.

    MLflow folds a long note after its first lines.
    """
    lines = _state(results)
    accuracy, *compared = (
        f"### {table.title}\n\n{render.as_markdown(table)}" for table in _summary_tables(results)
    )
    return "\n".join([*lines, accuracy, *_plain_words(results), *compared])


def as_markdown(results: Results, pictures: Pictures | None = None) -> str:
    """Return the whole report as Markdown, ending in a line break."""
    lines = [f"# {results.name}", "", *_state(results), *_plain_words(results)]
    for section in sections(weigh(results)):
        lines += [f"## {section.title}", ""]
        for text in section.text:
            lines += [text, ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", render.as_markdown(table)]
        for caption, path in (pictures or {}).get(section.key, ()):
            lines += [f"![{caption}]({path})", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def as_csv(results: Results) -> str:
    """Return a line per finished trial, under a line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["dataset", "network", "activation", "seed"]
    columns += ["test_accuracy", "test_loss", "epochs", "diverged"]
    writer.writerow([*columns, *(["subset"] if results.subset else [])])
    for arm in results.arms:
        for trial in arm.trials:
            result = trial.result
            row = [arm.dataset, arm.network, arm.activation, trial.seed]
            row += [repr(result.accuracy)]
            row += ["" if result.loss is None else repr(result.loss)]
            row += [result.epochs, str(result.diverged).lower()]
            writer.writerow([*row, *([results.subset] if results.subset else [])])
    return text.getvalue()


def _state(results: Results) -> list[str]:
    return [line for words in state_words(results) for line in (f"**{words}**", "")]


def _plain_words(results: Results) -> list[str]:
    lines = ["## In plain words", ""]
    for label, sentences in findings(weigh(results)):
        lines += [f"{label}:", "", *(f"- {sentence}" for sentence in sentences), ""]
    return lines


def _summary_tables(results: Results) -> list[Table]:
    evidence = weigh(results)
    compared = any(block.contenders for block in evidence.blocks)
    return [accuracy_table(evidence), *([comparison_table(evidence)] if compared else [])]
