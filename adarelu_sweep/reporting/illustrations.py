"""Which figures a report has, under which of its sections."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from adarelu_sweep.reporting.evidence import Evidence
from adarelu_sweep.reporting.figures import (
    draw_curves,
    draw_differences,
    draw_ranks,
    draw_search,
    draw_spread,
)
from adarelu_sweep.reporting.layer_figures import draw_branches, draw_dead_units, draw_shapes
from adarelu_sweep.reporting.palette import Palette
from adarelu_sweep.reporting.results import Results


@dataclass(frozen=True)
class Illustration:
    """A figure still to be drawn."""

    section: str
    """Key of the section under which it stands."""
    name: str
    """Its file's name."""
    caption: str
    draw: Callable[[], Figure]


def illustrations(evidence: Evidence) -> list[Illustration]:
    """Return the figures for which there is something to draw, in the order of the report."""
    results = evidence.results
    palette = Palette(results.activations)
    found = [*_of_accuracy(evidence, palette), *_of_layers(results, palette)]
    if not isinstance(evidence.ranking, str):
        draw = partial(draw_ranks, evidence.ranking, palette)
        found.append(Illustration("ranks", "ranks", "Critical-difference plot", draw))
    if any(trial.accuracy is not None for search in results.searches for trial in search.trials):
        draw = partial(draw_search, results.searches, palette)
        found.append(Illustration("search", "search", "Progress of the search", draw))
    return found


def _of_accuracy(evidence: Evidence, palette: Palette) -> list[Illustration]:
    found = []
    compared = [
        block
        for block in evidence.blocks
        if any(arm.accuracy.comparison and arm.accuracy.comparison.n for arm in block.contenders)
    ]
    if compared:
        draw = partial(draw_differences, compared, palette)
        caption = f"Differences to {evidence.results.baseline}, paired by seed"
        found.append(Illustration("accuracy", "differences", caption, draw))
    for block in evidence.results.blocks:
        if any(arm.curves("test/accuracy") for arm in block.arms):
            draw = partial(draw_curves, block, palette)
            caption = f"{block.label}: loss and accuracy per epoch"
            if any(arm.diverged for arm in block.arms):
                caption += (
                    "; a diverged trial keeps its last accuracy, and its loss is in the mean as "
                    "long as it is finite"
                )
            found.append(Illustration("convergence", _name("curves", block.label), caption, draw))
    spread = [block for block in evidence.blocks if any(arm.spread for arm in block.arms)]
    if spread:
        draw = partial(draw_spread, spread, palette)
        found.append(Illustration("convergence", "spread", "Spread over seeds", draw))
    return found


def _of_layers(results: Results, palette: Palette) -> list[Illustration]:
    draw = partial(draw_shapes, results.variants, palette)
    found = [Illustration("activations", "shapes", "Shapes of the activations", draw)]
    for arm in results.arms:
        if arm.probe("negative_branch_rate"):
            draw = partial(draw_branches, arm)
            caption = f"{arm.settings.arm}: branches per layer"
            found.append(
                Illustration("branches", _name("branches", arm.settings.arm), caption, draw)
            )
    for block in results.blocks:
        if any(arm.probe("dead_fraction") for arm in block.arms):
            draw = partial(draw_dead_units, block)
            caption = f"{block.label}: dead units per layer"
            found.append(
                Illustration("dead-units", _name("dead-units", block.label), caption, draw)
            )
    return found


def _name(kind: str, label: str) -> str:
    """Return a file name: brackets, commas, slashes and spaces become dashes."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9._=+-]+', '-', label).strip('-')}"
