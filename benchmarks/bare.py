"""The trial that is timed: nothing beside the training, as a plain loop has it."""

from adarelu_sweep.training.settings import TrialSettings


def bare_trial(
    dataset: str,
    network: str,
    width: float,
    activation: str,
    batch_size: int,
    precision: str = "fp32",
) -> TrialSettings:
    """Return a trial without probes, by SGD with momentum."""
    return TrialSettings.model_validate(
        {
            "dataset": dataset,
            "network": {"name": network, "width": width},
            "activation": activation,
            "seed": 0,
            "data": {},
            "training": {
                "epochs": 1,
                "batch_size": batch_size,
                "precision": precision,
                "probes": False,
                "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
            },
        }
    )
