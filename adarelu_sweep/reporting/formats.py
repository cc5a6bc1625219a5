"""A study's results as a table for a terminal, Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from adarelu_sweep.reporting.results import Arm, Results

_HEADINGS = ["data set", "network", "activation", "n", "test accuracy (%)", "std", "diverged"]


def as_table(results: Results) -> str:
    """Return a table for a terminal, ending in a line break."""
    table = Table(title=f"{results.study}: test accuracy at the last epoch")
    for heading in _HEADINGS:
        right = heading in {"n", "test accuracy (%)", "std", "diverged"}
        table.add_column(heading, justify="right" if right else "left")
    for arm in results.arms:
        table.add_row(*_row(arm))
    text = io.StringIO()
    console = Console(file=text, width=120, highlight=False)
    console.print(table)
    for note in _notes(results):
        console.print(note, markup=False)
    return text.getvalue()


def as_markdown(results: Results) -> str:
    """Return a Markdown table with a heading, ending in a line break."""
    lines = [f"# {results.study}", "", "Test accuracy at the last epoch.", ""]
    lines += [
        "| " + " | ".join(_HEADINGS) + " |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += ["| " + " | ".join(_row(arm)) + " |" for arm in results.arms]
    for note in _notes(results):
        lines += ["", note]
    return "\n".join(lines) + "\n"


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


def as_json(results: Results) -> str:
    """Return the results as JSON; floats read back bit for bit, what is not finite is null."""
    document = {
        "study": results.study,
        "subset": results.subset,
        "arms": [
            {
                "dataset": arm.dataset,
                "network": arm.network,
                "activation": arm.activation,
                "n": arm.n,
                "mean": arm.mean,
                "std": arm.std,
                "trials": [{"seed": t.seed, **asdict(t.result)} for t in arm.trials],
            }
            for arm in results.arms
        ],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Results], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def _row(arm: Arm) -> list[str]:
    n = str(arm.n) if arm.n == arm.planned else f"{arm.n} of {arm.planned}"
    mean = "-" if arm.mean is None else f"{arm.mean:.2f}"
    std = "-" if arm.std is None else f"{arm.std:.2f}"
    return [arm.dataset, arm.network, arm.activation, n, mean, std, str(arm.diverged)]


def _notes(results: Results) -> list[str]:
    notes = [results.subset] if results.subset else []
    if results.is_partial:
        notes.append("Not every trial has a result: the study is not complete.")
    return notes
