"""What all figures share: colours, the size of panels, and how they are saved.

Figures are made without pyplot, which keeps global state. Draw and save while holding the lock of
``adarelu_sweep.drawing``.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Petroff, "Accessible color sequences for data visualization", 2021, arXiv 2107.02270: ten colours
# that stay apart for people with a colour vision deficiency; here the greys come last.
_SEQUENCE = (
    *("#3f90da", "#ffa90e", "#832db6", "#bd1f01", "#a96b59"),
    *("#e76300", "#b9ac70", "#717581", "#92dadd", "#94a4a2"),
)

PANEL = (4.6, 3.2)
"""Inches, of one panel of a figure of two columns."""


class Palette:
    """One fixed colour for every activation of a report."""

    def __init__(self, activations: Sequence[str]) -> None:
        self._order = {label: i for i, label in enumerate(activations)}

    def colour(self, activation: str) -> str:
        """Return an activation's colour; beyond ten activations they repeat."""
        return _SEQUENCE[self._order[activation] % len(_SEQUENCE)]

    def line(self, activation: str, variant: int = 0) -> str:
        """Return a line style, which tells activations, and variants of one, of a colour apart."""
        return ("-", "--", ":", "-.")[(self._order[activation] // len(_SEQUENCE) + variant) % 4]


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
