"""The tables of what activations do: dependence on the batch, AdaReLU's branches, dead units.

Probes are taken per layer; a table shows their mean over layers and seeds.
"""

import re
from statistics import fmean

from adarelu_sweep.reporting.comparison_tables import arm_cells
from adarelu_sweep.reporting.results import Arm, Results
from adarelu_sweep.reporting.table import ARM, NOTHING, Column, Table, percent, plus_minus
from adarelu_sweep.wording import count

_BATCH = re.compile(r"test/accuracy_batch_(\d+)")


def batch_size_table(results: Results) -> Table | None:
    """Test accuracy with the test set cut into batches of other sizes; None if not measured."""
    sizes = sorted({size for arm in results.arms for size in _batch_sizes(arm)})
    if not sizes:
        return None
    rows = []
    for arm in results.arms:
        if _batch_sizes(arm):
            usual = str(arm.settings.training.evaluation_batch_size)
            measured = [arm.last(f"test/accuracy_batch_{size}") for size in sizes]
            cells = [plus_minus(list(values.values())) for values in measured]
            rows.append([*arm_cells(arm), usual, *cells])
    return Table(
        "batch-size",
        "Test accuracy by the batch size of the evaluation",
        [*ARM, Column("evaluated in"), *(Column(f"batches of {size} (%)") for size in sizes)],
        rows,
        [
            "Same weights, last epoch; mean over seeds (sample deviation). Only activations are "
            "measured so whose output for an image depends on the others of its batch. In batches "
            "of 1, AdaReLU's images vote alone in one pass; an activation that cannot do that is "
            "shown the first 1,000 test images.",
            *_smaller_than_batches(results, sizes[-1]),
        ],
    )


def branch_table(results: Results) -> Table | None:
    """How often AdaReLU took its negative branch, and changed it; None if not probed."""
    rows = []
    for arm in results.arms:
        rate = _over_layers(arm.probe("negative_branch_rate"))
        change = _over_layers(arm.probe("branch_change_rate"))
        imbalance = _over_layers(arm.probe("imbalance"))
        if rate:
            rows.append(
                [
                    *arm_cells(arm),
                    *(percent(series[0] if series else None) for series in (rate, change)),
                    *(percent(series[-1] if series else None) for series in (rate, change)),
                    percent(imbalance[-1] if imbalance else None, 2),
                ]
            )
    if not rows:
        return None
    headings = ["negative branch, first epoch (%)", "changes, first epoch (%)"]
    headings += ["negative branch, last epoch (%)", "changes, last epoch (%)"]
    headings += ["imbalance, last epoch (%)"]
    return Table(
        "branches",
        "AdaReLU's branches",
        [*ARM, *map(Column, headings)],
        rows,
        [
            "Negative branch: share of the training batches in which a layer gave min(x, 0). "
            "Changes: share in which it took another branch than in the batch before. Imbalance: "
            "|positive - negative| / N of the votes. Means over layers and seeds."
        ],
    )


def dead_unit_table(results: Results) -> Table | None:
    """Units that are never active, and sparsity; None if not probed."""
    rows = []
    for arm in results.arms:
        dead, sparse = arm.probe("dead_fraction"), _over_layers(arm.probe("sparsity"))
        if not dead:
            continue
        worst = max(dead, key=lambda layer: dead[layer][-1])
        rows.append(
            [
                *arm_cells(arm),
                percent(_over_layers(dead)[-1]),
                f"{percent(dead[worst][-1])} ({worst})" if dead[worst][-1] > 0 else NOTHING,
                percent(sparse[-1] if sparse else None),
            ]
        )
    if not rows:
        return None
    return Table(
        "dead-units",
        "Dead units at the last epoch",
        [*ARM, *map(Column, ["dead (%)", "most in a layer (%)", "outputs that are 0 (%)"])],
        rows,
        [
            "Dead: units whose output is 0 for every image that was probed. Means over layers and "
            "seeds; most in a layer: the layer with the highest mean over seeds."
        ],
    )


def _smaller_than_batches(results: Results, largest: int) -> list[str]:
    """Say which test sets do not fill the largest of the batches."""
    images = {arm.dataset: arm.evaluated.images for arm in results.arms if arm.evaluated}
    return [
        f"{dataset} has {count(number, 'test image')}: a batch of {largest} is one of all of them."
        for dataset, number in images.items()
        if number < largest
    ]


def _batch_sizes(arm: Arm) -> set[int]:
    metrics = {
        name for t in arm.trials if t.history.epochs for name in t.history.epochs[-1].metrics
    }
    return {int(match[1]) for name in metrics if (match := _BATCH.fullmatch(name))}


def _over_layers(layers: dict[str, list[float]]) -> list[float]:
    """Return the mean over layers at every epoch; empty without layers."""
    return [fmean(same) for same in zip(*layers.values(), strict=True)]
