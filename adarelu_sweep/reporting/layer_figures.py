"""The figures of activations: their shapes, and what they do layer by layer, epoch by epoch."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from adarelu_sweep.components import Component
from adarelu_sweep.reporting.drawing import new_figure, whole_numbers
from adarelu_sweep.reporting.palette import Palette
from adarelu_sweep.reporting.results import Arm, Block, Variant

_POINTS = np.linspace(-3, 3, 301, dtype=np.float32)

Layers = Mapping[str, Sequence[float]]
"""Layer to a quantity at every epoch, in the order of the network."""


def draw_shapes(variants: Sequence[Variant], palette: Palette) -> Figure:
    """The activations as functions, computed by their own modules: the paper's figures 1 and 2.

    Each is run on the same points in a batch in which negative elements prevail, and in one in
    which positive elements do: whose outputs differ, is drawn twice.
    """
    shapes = [(variant, _outputs(variant.component)) for variant in variants]
    known = [(variant, outputs) for variant, outputs in shapes if outputs is not None]
    twofold = [[(variant, (a, b))] for variant, (a, b) in known if not np.array_equal(a, b)]
    plain = [(variant, (a, b)) for variant, (a, b) in known if np.array_equal(a, b)]
    panels = [plain, *twofold] if plain or not twofold else twofold
    figure = new_figure("Shapes", 3.9 * len(panels) + 0.4, 3.6)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel in zip(grid, panels, strict=True):
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.axvline(0, color="0.8", linewidth=0.8)
        drawn: Counter[str] = Counter()
        for variant, (few, many) in panel:
            colour = palette.colour(variant.activation)
            if panel is plain:
                line = palette.line(variant.activation, drawn[variant.activation])
                axes.plot(_POINTS, few, line, color=colour, label=variant.label)
                drawn[variant.activation] += 1
            else:
                axes.plot(_POINTS, few, "-", color=colour, label="in a mostly negative batch")
                axes.plot(_POINTS, many, "--", color=colour, label="in a mostly positive batch")
                axes.set_title(variant.label, fontsize=10)
        axes.set_xlabel("input")
        axes.legend(fontsize=9, loc="upper left")
    grid[0].set_ylabel("output")
    return figure


def _outputs(component: Component) -> list[NDArray[np.float32]] | None:
    """Run an activation on ``_POINTS`` in the company of negative, then of positive elements.

    None for somebody's own activation that does not take images of one pixel and one channel.
    """
    import torch

    from adarelu_sweep.activations.factory import activation_factory

    outputs = []
    for company in (-1.0, 1.0):
        batch = torch.from_numpy(np.append(_POINTS, np.full(2 * len(_POINTS), company, np.float32)))
        try:
            with torch.no_grad():
                output = activation_factory(component)()(batch.reshape(-1, 1, 1, 1))
            outputs.append(output.reshape(-1)[: len(_POINTS)].float().numpy())
        except Exception:
            return None
    return outputs


def draw_branches(arm: Arm) -> Figure:
    """Where and when AdaReLU took its negative branch, and where and when it changed."""
    rate, change = arm.probe("negative_branch_rate"), arm.probe("branch_change_rate")
    panels = [("negative branch, % of batches", rate, "PuOr", 100.0)]
    if change:
        highest = 100 * max(max(series) for series in change.values())
        panels.append(("changes from batch to batch, %", change, "cividis", max(highest, 1.0)))
    title = f"{arm.dataset}, {arm.network}, {arm.activation}: branches per layer, mean over seeds"
    figure = new_figure(title, 9.6, 1.6 + 0.22 * len(rate))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, layers, colours, top) in zip(grid, panels, strict=True):
        image = _heat_map(axes, layers, colours, top)
        axes.set_title(name, fontsize=10)
        figure.colorbar(image, ax=axes)
    return figure


def draw_dead_units(block: Block) -> Figure:
    """Fraction of dead units per layer and epoch, a panel per activation, one scale for all."""
    probed = {
        arm.activation: layers for arm in block.arms if (layers := arm.probe("dead_fraction"))
    }
    most = max(max(series) for layers in probed.values() for series in layers.values())
    columns = min(len(probed), 4)
    rows = -(-len(probed) // columns)
    depth = max(len(layers) for layers in probed.values())
    figure = new_figure(
        f"{block.label}: dead units per layer (%), mean over seeds",
        *(2.0 + 2.1 * columns, rows * (1.1 + 0.2 * depth) + 0.4),
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (activation, layers) in zip(grid.flat, probed.items(), strict=False):
        image = _heat_map(axes, layers, "cividis", max(100 * most, 1.0))
        axes.set_title(activation, fontsize=10)
    for axes in grid.flat[len(probed) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid)
    return figure


def _heat_map(axes: Axes, layers: Layers, colours: str, top: float) -> AxesImage:
    """Draw layers x epochs in percent; the layer next to the input is the topmost."""
    values = 100 * np.array(list(layers.values()))
    depth, epochs = values.shape
    image = axes.imshow(
        values,
        cmap=colours,
        vmin=0,
        vmax=top,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, epochs + 0.5, depth - 0.5, -0.5),
    )
    axes.set_yticks(range(depth), list(layers), fontsize=8)
    whole_numbers(axes, "epoch")
    return image
