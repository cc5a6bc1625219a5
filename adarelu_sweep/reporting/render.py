"""A table as text for a terminal, Markdown, LaTeX and CSV."""

import csv
import io
import re
from textwrap import fill

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from adarelu_sweep.reporting.table import Table

_HEADING_WIDTH, _NOTE_WIDTH, _ENDLESS = 14, 110, 10_000
_LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def as_text(table: Table) -> str:
    """Return the table for a terminal, ending in a line break; cells are never broken."""
    grid = RichTable(title=Text(table.title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in table.columns:
        heading = Text(fill(column.heading, _HEADING_WIDTH, break_long_words=False))
        grid.add_column(heading, justify="right" if column.right else "left", no_wrap=True)
    for row in table.rows:
        grid.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=_ENDLESS, highlight=False).print(grid)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, *(fill(note, _NOTE_WIDTH) for note in table.notes)]) + "\n"


def as_markdown(table: Table) -> str:
    """Return the table with its notes, without its title, ending in a line break."""
    lines = [_piped([column.heading for column in table.columns])]
    lines += [_piped(["---:" if column.right else "---" for column in table.columns])]
    lines += map(_piped, table.rows)
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """Return a LaTeX table that needs the package booktabs, ending in a line break."""
    alignment = "".join("r" if column.right else "l" for column in table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}}}",
        rf"  \label{{tab:{table.key}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        f"    {_ampersands([column.heading for column in table.columns])}",
        r"    \midrule",
        *(f"    {_ampersands(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\smallskip\footnotesize {_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """Return the headings and the rows, without notes, ending in a line break."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.heading for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue()


def _piped(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ampersands(cells: list[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    """Escape what is special in LaTeX; a minus before a number becomes a real one."""
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))
