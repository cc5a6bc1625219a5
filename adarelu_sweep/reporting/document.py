"""A study's results as JSON: every number, bit for bit."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Any

from adarelu_sweep.reporting.evidence import ArmEvidence, Evidence, Measured, weigh
from adarelu_sweep.reporting.ranks import Ranking
from adarelu_sweep.reporting.results import Results, SeedResult
from adarelu_sweep.reporting.sentences import findings
from adarelu_sweep.studies.published import (
    paper_accuracy,
    protocol_differences,
    standard_accuracy,
)

_CURVES = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")


def as_json(results: Results) -> str:
    """Return the results as JSON; floats read back bit for bit, what is not finite is null.

    Accuracies are in percent, losses in nats, probes and probabilities are fractions.
    """
    evidence = weigh(results)
    document = {
        "study": results.name,
        "state": results.state,
        "trials": asdict(results.counts),
        "subset": results.subset,
        "baseline": results.baseline,
        "findings": dict(findings(evidence)),
        "arms": [_arm(arm, block.threshold) for block in evidence.blocks for arm in block.arms],
        "ranking": _ranking(evidence),
        "searches": [asdict(search) for search in results.searches],
    }
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _arm(evidence: ArmEvidence, threshold: float | None) -> dict[str, Any]:
    arm, summary = evidence.arm, evidence.accuracy.summary
    return {
        "dataset": arm.dataset,
        "network": arm.network,
        "activation": arm.activation,
        "n": arm.n,
        "planned": arm.planned,
        "diverged": arm.diverged,
        "mean": summary.mean,
        "std": summary.std,
        "low": summary.low,
        "high": summary.high,
        "comparison": _comparison(evidence.accuracy),
        "convergence": {
            "threshold": threshold,
            "reached": evidence.reached,
            "converged": evidence.converged,
            "epochs_to_threshold": _measured(evidence.epochs_to_threshold),
            "epoch_to_epoch_deviation": _measured(evidence.deviation),
            "loss_area": _measured(evidence.loss_area),
            "spread": evidence.spread,
            "spread_ratio": evidence.spread_ratio._asdict() if evidence.spread_ratio else None,
        },
        "paper_accuracy": paper_accuracy(arm.settings),
        "standard_accuracy": standard_accuracy(arm.settings),
        "protocol_differences": [
            asdict(difference) for difference in protocol_differences(arm.settings, arm.planned)
        ],
        "settings": arm.settings.model_dump(mode="json", exclude={"seed"}),
        "trials": [_trial(trial) for trial in arm.trials],
        "probes": {quantity: arm.probe(quantity) for quantity in arm.probed()},
    }


def _trial(trial: SeedResult) -> dict[str, Any]:
    last = trial.history.epochs[-1].metrics if trial.history.epochs else {}
    return {
        "seed": trial.seed,
        "number": trial.number,
        "test_accuracy": trial.result.accuracy,
        "test_loss": trial.result.loss,
        "epochs": trial.result.epochs,
        "diverged": trial.result.diverged,
        "curves": {name: curve for name in _CURVES if (curve := trial.curve(name))},
        "last": {name: value for name, value in last.items() if name.startswith("test/")},
    }


def _comparison(measured: Measured) -> dict[str, Any] | None:
    return asdict(measured.comparison) if measured.comparison else None


def _measured(measured: Measured) -> dict[str, Any]:
    return {
        "by_seed": measured.values,
        **asdict(measured.summary),
        "comparison": _comparison(measured),
    }


def _ranking(evidence: Evidence) -> dict[str, Any]:
    ranking = evidence.ranking
    return asdict(ranking) if isinstance(ranking, Ranking) else {"refused": ranking}


def _finite(value: Any) -> Any:
    """Replace every float that JSON cannot say by null, however deep it lies."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
