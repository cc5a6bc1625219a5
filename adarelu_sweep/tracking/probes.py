"""What the probes saw: few numbers for the tracker's charts, all of them in a table, a figure."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from matplotlib import colormaps
from matplotlib.figure import Figure

from adarelu_sweep.training.history import EpochRecord, History


def layer_means(record: EpochRecord) -> dict[str, float]:
    """Return the mean of each quantity over the layers that have it, as ``probe/QUANTITY``.

    One key for a quantity instead of one for every layer: MLflow's views are slow with many.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for layer in record.probes.values():
        for quantity, value in layer.items():
            values[f"probe/{quantity}"].append(value)
    return {key: fmean(of_layers) for key, of_layers in values.items()}


def write_probes(history: History, path: Path) -> None:
    """Write every value: a line for each epoch, layer and quantity."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "layer", "quantity", "value"])
        for record in history.epochs:
            for layer, quantities in record.probes.items():
                for quantity, value in quantities.items():
                    writer.writerow([record.epoch, layer, quantity, value])


def draw_probes(history: History, title: str, path: Path) -> None:
    """Draw each quantity over the epochs: a line for each layer, from dark (first) to light."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in history.epochs:
        for layer, quantities in record.probes.items():
            for quantity, value in quantities.items():
                lines = curves.setdefault(quantity, {})
                lines.setdefault(layer, []).append((record.epoch, value))
    figure = Figure(figsize=(1 + 3 * len(curves), 3), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (quantity, lines) in zip(panels, curves.items(), strict=True):
        shades = colormaps["viridis"]
        for depth, (layer, points) in enumerate(lines.items()):
            at_end = depth in {0, len(lines) - 1}
            axes.plot(
                *zip(*points, strict=True),
                color=shades(0.9 * depth / max(1, len(lines) - 1)),
                label=layer if at_end else None,
                marker="." if len(points) < 20 else None,
            )
        axes.set_title(quantity.replace("_", " "), fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[-1].legend(fontsize=8, title="layers, first to last", title_fontsize=8)
    figure.savefig(path, dpi=100)
