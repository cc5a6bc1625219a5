"""Results made by hand: what a study might have measured, without training anything."""

import math
import random
from pathlib import Path
from typing import Any

from adarelu_sweep.recording.trials import Counts, TrialResult
from adarelu_sweep.reporting.results import Arm, Results, SeedResult
from adarelu_sweep.studies.schema import Arm as StudyArm
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.history import EpochRecord, History
from adarelu_sweep.training.settings import TrialSettings

LAYERS = [f"features.{2 + 3 * i}" for i in range(13)]


def make_study(**matrix: Any) -> Study:
    return Study.model_validate(
        {
            "name": "by-hand",
            "matrix": {
                "dataset": "digits",
                "network": "vgg16_bn",
                "activation": ["relu", "leaky_relu", "adarelu"],
                "seeds": 8,
            }
            | matrix,
            "training": {"epochs": 12, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}},
        }
    )


def make_results(
    study: Study | None = None, diverged: set[tuple[str, int]] | None = None, **changes: Any
) -> Results:
    """Return results of every cell of a study; ``diverged`` are activations and seeds."""
    study = study or make_study()
    random.seed(7)  # the curves are the same for everybody
    matrix, number, arms = study.matrix, 0, []
    for dataset in matrix.dataset:
        for network in matrix.network:
            for place, activation in enumerate(matrix.activation):
                trials = []
                for seed in matrix.seeds:
                    bad = (activation.label, seed) in (diverged or set())
                    trials.append(_trial(seed, number, place, activation.name, study, bad))
                    number += 1
                settings = TrialSettings(
                    dataset=dataset,
                    network=network,
                    activation=activation,
                    seed=matrix.seeds[0],
                    data=study.data,
                    training=study.training,
                )
                cell = StudyArm(dataset, network, activation)
                arms.append(Arm(cell, settings, len(matrix.seeds), trials))
    counts = Counts(number, number, 0, 0, 0, 0)
    defaults: dict[str, Any] = {"state": "complete", "counts": counts, "baseline": "relu"}
    return Results(study=study, arms=arms, **defaults | changes)


def _trial(
    seed: int, number: int, place: int, activation: str, study: Study, diverged: bool
) -> SeedResult:
    epochs = 4 if diverged else study.training.epochs
    records = []
    for epoch in range(1, epochs + 1):
        rise = 1 - math.exp(-epoch / (2 + place))
        noise = random.gauss(0, 1.5)
        accuracy = min(10 + 85 * rise + 0.6 * seed % 3 + noise, 100)
        loss = math.nan if diverged and epoch == epochs else 2.3 * math.exp(-epoch / (3 + place))
        metrics = {
            "train/loss": loss,
            "train/accuracy": min(accuracy + 2, 100),
            "test/loss": loss * 1.3,
            "test/accuracy": accuracy,
            "lr": 0.01,
        }
        if activation == "adarelu" and epoch == epochs:
            metrics |= {
                f"test/accuracy_batch_{size}": accuracy - 50 / size for size in (1, 32, 1000)
            }
        records.append(
            EpochRecord(
                epoch=epoch,
                timestamp=1000 * epoch,
                metrics=metrics,
                probes={layer: _probes(activation, i, epoch) for i, layer in enumerate(LAYERS)},
            )
        )
    last = records[-1].metrics
    loss = last["test/loss"]
    result = TrialResult(
        last["test/accuracy"], loss if math.isfinite(loss) else None, epochs, diverged
    )
    history = History(epochs=records, outcome="diverged" if diverged else "complete")
    folder = Path(f"{number:05d}")
    return SeedResult(seed, result, number, folder, folder, history)


def _probes(activation: str, layer: int, epoch: int) -> dict[str, float]:
    seen = {"dead_fraction": 0.01 * layer * random.random(), "sparsity": 0.5 + 0.01 * layer}
    if activation == "adarelu":
        settled = 1 - math.exp(-epoch / 2)
        side = layer % 3 == 0
        seen["negative_branch_rate"] = 0.5 + (0.5 if side else -0.5) * settled
        seen["branch_change_rate"] = 0.5 * (1 - settled)
        seen["imbalance"] = 0.01 * settled
    return seen
