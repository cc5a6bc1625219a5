"""What all figures share: the size of panels, and how they are saved.

Figures are made without pyplot, which keeps global state. Draw and save while holding the lock of
``adarelu_sweep.drawing``.
"""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PANEL = (4.6, 3.2)
"""Inches, of one panel of a figure of two columns."""


def new_figure(title: str, width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def whole_numbers(axes: Axes, label: str) -> None:
    """Name the horizontal axis, and mark it at whole numbers only."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg; the same figure gives the same bytes."""
    figure.savefig(folder / f"{name}.png", dpi=130)
    figure.set_layout_engine("none")  # keeps the layout that it has, which took most of the time
    # The ids in an SVG are random without a salt, and its date is that of the drawing.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
