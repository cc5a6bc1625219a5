"""Real, tiny trials on the built-in digits, to train within a test and to compare."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training.history import CONFUSION_MATRIX, MODEL, History, Keep
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.stopping import StopRequestedError

VARYING = {"epoch_seconds", "images_per_second"}
OPTIMIZER_TABLES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001},
    "adam": {"name": "adam", "lr": 0.01},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
}
ENDLESS = {"name": "sgd", "lr": 1e30}  # the first step ruins the weights
EPOCHS = 3
BATCHES = 3  # of an epoch: 24, 24 and 8 images
STEPS = BATCHES + 2  # with those of its evaluation: 24 and 16 images


def trial_settings(
    network: str | dict[str, Any] = "vgg16_bn",
    activation: str | dict[str, Any] = "adarelu",
    optimizer: str | dict[str, Any] = "sgd",
    *,
    seed: int = 5,
    train_limit: int = 56,
    test_limit: int = 40,
    validation_fraction: float | None = None,
    **training: Any,
) -> TrialSettings:
    table = OPTIMIZER_TABLES[optimizer] if isinstance(optimizer, str) else optimizer
    training = {"epochs": EPOCHS, "batch_size": 24, "optimizer": table} | training
    return TrialSettings.model_validate(
        {
            "dataset": "digits",
            "network": {"name": network, "width": 1 / 16} if isinstance(network, str) else network,
            "activation": activation,
            "seed": seed,
            "data": {"train_limit": train_limit, "test_limit": test_limit},
            "training": training,
            "validation_fraction": validation_fraction,
        }
    )


@cache
def digits(train_limit: int, test_limit: int) -> ResidentDataset:
    return ResidentDataset.load("digits", Path(), "cpu", train_limit, test_limit)


def begin(settings: TrialSettings, folder: Path, keep: Keep = "last") -> Trial:
    folder.mkdir(parents=True, exist_ok=True)
    data = settings.data
    assert data.train_limit is not None
    assert data.test_limit is not None
    return Trial(settings, digits(data.train_limit, data.test_limit), folder, keep)


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """Return what asks to stop once that many steps are done."""
    done = count()
    return lambda: next(done) >= steps


def train(settings: TrialSettings, folder: Path, stops: list[int] | None = None) -> Trial:
    """Train to the outcome, with one more attempt for every number of steps after which to stop."""
    for stop_requested in [*map(after, stops or []), never]:
        trial = begin(settings, folder)
        with suppress(StopRequestedError):
            list(trial.train(stop_requested))
            break
    return trial


def measured(history: History) -> list[tuple[int, dict[str, str]]]:
    """Return what has to repeat to the last bit; as text, in which NaN equals NaN."""
    return [
        (record.epoch, {k: v.hex() for k, v in record.metrics.items() if k not in VARYING})
        for record in history.epochs
    ]


def digest(tensors: dict[str, Tensor]) -> str:
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def optimizer_state(trial: Trial) -> dict[str, Tensor]:
    return {
        f"{index}/{name}": torch.as_tensor(value)
        for index, state in trial.optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def fingerprint(trial: Trial) -> tuple[Any, ...]:
    """Return everything that two attempts at one trial have in common."""
    return (
        measured(trial.history),
        trial.history.outcome,
        digest(trial.network.state_dict()),
        digest(optimizer_state(trial)),
        digest(load_file(trial.folder / MODEL)),
        (trial.folder / CONFUSION_MATRIX).read_text(),
    )
