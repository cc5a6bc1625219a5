"""The figures of accuracy: curves, differences, spread over seeds, ranks, search."""

from itertools import accumulate
from math import inf, isfinite

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adarelu_sweep.reporting.curves import deviation_curve, mean_curve
from adarelu_sweep.reporting.drawing import PANEL, new_figure, whole_numbers
from adarelu_sweep.reporting.evidence import ArmEvidence, BlockEvidence
from adarelu_sweep.reporting.palette import Palette
from adarelu_sweep.reporting.ranks import Ranking
from adarelu_sweep.reporting.results import Arm, ArmSearch, Block
from adarelu_sweep.reporting.statistics import Comparison

# A loss that falls or rises by more than this factor is drawn on a logarithmic axis.
_LINEAR_RANGE = 50


def draw_curves(block: Block, palette: Palette) -> Figure:
    """Loss and accuracy per epoch, in training and in testing: the paper's figure 3.

    Lines are means over seeds, bands one sample deviation. A diverged trial keeps its last accuracy
    up to the last planned epoch; its loss is in the mean as long as it is finite. Every trial of an
    arm that has one is drawn thin.
    """
    figure = new_figure(f"{block.label}: mean over seeds, band of one deviation", 9.2, 6.4)
    grid = figure.subplots(2, 2, sharex=True)
    rows = [("loss", "cross entropy (nats)"), ("accuracy", "accuracy (%)")]
    for axes_row, (quantity, label) in zip(grid, rows, strict=True):
        for axes, (split, title) in zip(
            axes_row, [("train", "training"), ("test", "testing")], strict=True
        ):
            for arm in block.arms:
                _draw_band(axes, arm, f"{split}/{quantity}", palette)
            axes.set_ylabel(label)
            if quantity == "loss":
                axes.set_title(title, fontsize=10)
                _fit_loss(axes)
            else:
                whole_numbers(axes, "epoch")
            axes.grid(alpha=0.25)
    grid[1][1].legend(fontsize=9)
    return figure


def draw_differences(blocks: list[BlockEvidence], palette: Palette) -> Figure:
    """Differences to the baseline per seed (dots), their mean and its 95 % interval."""
    rows = [max(len(block.contenders), 1) for block in blocks]
    baseline = blocks[0].baseline
    figure = new_figure(
        f"Test accuracy minus {baseline}'s of the same seed: mean, 95 % interval, seeds",
        *(9.2, 1.0 + sum(0.5 * n + 0.45 for n in rows)),
    )
    panels = figure.subplots(len(blocks), 1, sharex=True, squeeze=False, height_ratios=rows)
    for axes, block in zip(panels[:, 0], blocks, strict=True):
        axes.axvline(0, color="0.3", linewidth=1)
        base = block.block.arm(block.baseline)
        accuracies = base.accuracies() if base else {}
        for y, arm in enumerate(block.contenders):
            colour = palette.colour(arm.activation)
            own = arm.accuracy.values
            dots = [own[seed] - accuracies[seed] for seed in own if seed in accuracies]
            axes.plot(dots, [y + 0.22] * len(dots), "o", color=colour, alpha=0.45, markersize=4)
            if arm.accuracy.comparison:
                _draw_interval(axes, arm.accuracy.comparison, y, colour)
        axes.set_yticks(range(len(block.contenders)), [arm.activation for arm in block.contenders])
        axes.set_ylim(len(block.contenders) - 0.4, -0.6)
        axes.set_title(block.block.label, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.25)
    panels[-1, 0].set_xlabel("difference (percentage points)")
    return figure


def draw_spread(blocks: list[BlockEvidence], palette: Palette) -> Figure:
    """Sample deviation of the test accuracy over seeds at every epoch."""
    columns = min(len(blocks), 2)
    rows = -(-len(blocks) // columns)
    width = PANEL[0] * columns if columns > 1 else 6.0
    figure = new_figure("Deviation of the test accuracy over seeds", width, PANEL[1] * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, block in zip(grid.flat, blocks, strict=False):
        for arm in block.arms:
            _draw_spread_of(axes, arm, palette)
        axes.set_title(block.block.label, fontsize=10)
        axes.set_ylabel("deviation (points)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        whole_numbers(axes, "epoch")
    for axes in grid.flat[len(blocks) :]:
        axes.set_axis_off()
    grid.flat[0].legend(fontsize=9)
    return figure


def draw_ranks(ranking: Ranking, palette: Palette) -> Figure:
    """Average ranks; a bar joins what the Nemenyi test cannot tell apart (Demsar, 2006)."""
    from pandas import DataFrame
    from scikit_posthocs import critical_difference_diagram

    # High enough for the bar of the critical difference to lie above the axis's numbers.
    height = 1.4 + 0.62 * (len(ranking.treatments) / 2 + 3)
    title = "Average ranks: joined by a bar where no difference is shown"
    figure = new_figure(title, 7.5, height)
    axes = figure.subplots()
    critical_difference_diagram(
        ranking.average_ranks,
        DataFrame(ranking.p_values),
        cd=ranking.critical_difference,
        ax=axes,
        color_palette={label: palette.colour(label) for label in ranking.treatments},
        label_fmt_left="{label} ({rank:.2f}) ",
        label_fmt_right=" ({rank:.2f}) {label}",
        crossbar_props={"color": "0.35"},
    )
    return figure


def draw_search(searches: list[ArmSearch], palette: Palette) -> Figure:
    """Best validation accuracy so far against the number of the trial, a line per arm."""
    blocks = list(dict.fromkeys((search.dataset, search.network) for search in searches))
    columns = min(len(blocks), 2)
    rows = -(-len(blocks) // columns)
    width = PANEL[0] * columns if columns > 1 else 6.0
    figure = new_figure("Search: best validation accuracy so far", width, PANEL[1] * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, block in zip(grid.flat, blocks, strict=False):
        for search in searches:
            if (search.dataset, search.network) == block:
                _draw_progress(axes, search, palette)
        axes.set_title(", ".join(block), fontsize=10)
        axes.set_ylabel("validation accuracy (%)")
        whole_numbers(axes, "trial of the arm")
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(blocks) :]:
        axes.set_axis_off()
    grid.flat[0].legend(fontsize=9)
    return figure


def _draw_band(axes: Axes, arm: Arm, metric: str, palette: Palette) -> None:
    curves = arm.averaged(metric)
    if not curves:
        return
    colour, line = palette.colour(arm.activation), palette.line(arm.activation)
    mean, deviation = mean_curve(curves), deviation_curve(curves)
    epochs = range(1, len(mean) + 1)
    axes.plot(epochs, mean, line, color=colour, label=arm.activation, marker=_marker(len(mean)))
    top = 100.0 if metric.endswith("accuracy") else inf  # no band where no value can be
    banded = list(zip(mean, deviation, strict=False))
    low = [max(m - d, 0.0) for m, d in banded]
    high = [min(m + d, top) for m, d in banded]
    axes.fill_between(epochs[: len(banded)], low, high, color=colour, alpha=0.18, linewidth=0)
    if arm.diverged:
        for curve in arm.curves(metric).values():
            axes.plot(range(1, len(curve) + 1), curve, line, color=colour, linewidth=0.6)


def _marker(epochs: int) -> str | None:
    return "." if epochs < 20 else None


def _fit_loss(axes: Axes) -> None:
    """Take a logarithmic axis where a linear one would show nothing but its largest values."""
    drawn = [y for line in axes.lines for y in np.asarray(line.get_ydata(), dtype=float)]
    finite = [y for y in drawn if isfinite(y) and y > 0]
    if finite and max(finite) > _LINEAR_RANGE * min(finite):
        axes.set_yscale("log")


def _draw_interval(axes: Axes, comparison: Comparison, y: float, colour: str) -> None:
    if comparison.mean is None:
        return
    if comparison.low is not None and comparison.high is not None:
        axes.plot([comparison.low, comparison.high], [y, y], color=colour, linewidth=2.5)
    axes.plot([comparison.mean], [y], "D", color=colour, markersize=7, markeredgecolor="black")


def _draw_spread_of(axes: Axes, arm: ArmEvidence, palette: Palette) -> None:
    if arm.spread:
        colour, line = palette.colour(arm.activation), palette.line(arm.activation)
        epochs = range(1, len(arm.spread) + 1)
        marker = _marker(len(arm.spread))
        axes.plot(epochs, arm.spread, line, color=colour, label=arm.activation, marker=marker)


def _draw_progress(axes: Axes, search: ArmSearch, palette: Palette) -> None:
    measured = [trial.accuracy for trial in search.trials]
    known = [(i, value) for i, value in enumerate(measured, 1) if value is not None]
    if known:
        numbers, values = zip(*known, strict=True)
        colour, line = palette.colour(search.activation), palette.line(search.activation)
        axes.plot(numbers, values, "o", color=colour, alpha=0.3, markersize=3)
        best = list(accumulate(values, max))
        axes.step(numbers, best, line, where="post", color=colour, label=search.activation)
