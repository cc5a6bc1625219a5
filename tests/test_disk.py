"""The disk that a study will need, as ``validate`` says it, against files that are written."""

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adarelu_sweep.components import Component
from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.operating import disk
from adarelu_sweep.operating.disk import DiskNeed, free_bytes
from adarelu_sweep.studies.schema import Arm, Study
from adarelu_sweep.studies.search import Search
from adarelu_sweep.training.checkpoint import Checkpoint
from adarelu_sweep.training.history import CHECKPOINT, History
from adarelu_sweep.training.optimizers import build_optimizer
from adarelu_sweep.training.registry import OPTIMIZERS as OPTIMIZER_REGISTRY
from adarelu_sweep.wording import size

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.05},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    {"name": "adam", "lr": 0.01},
    {"name": "adamw", "lr": 0.01},
]
OWN = "tests.own_parts:Normed"


def study(**matrix: Any) -> Study:
    table = {
        "dataset": "digits",
        "network": [{"name": "vgg16_bn", "width": 0.0625}, OWN],
        "activation": ["relu", "prelu"],
        "seeds": 3,
    }
    training = {"epochs": 2, "optimizer": OPTIMIZERS[1]}
    return Study.model_validate({"name": "disk", "matrix": table | matrix, "training": training})


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network is measured once in these tests: the process that does it imports torch."""
    monkeypatch.setattr(disk, "_ask", ASK)


ASK = cache(disk._ask)


def checkpoint_of(arm: Arm, optimizer: Component, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an arm's checkpoint, but for step counts."""
    network = build_network(arm.network, arm.activation, 1, 10, torch.Generator())
    built = build_optimizer(optimizer, network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    Checkpoint(network, built, History()).write(folder)
    tensors = load_file(folder / CHECKPOINT)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("/step")}


def size_of(tensors: Mapping[str, Tensor], prefix: str = "") -> int:
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(prefix))


def need(wanted: Study, in_hand: int) -> DiskNeed:
    found = DiskNeed.of(wanted, Path("nowhere"), in_hand)
    assert found is not None
    return found


@pytest.mark.parametrize("table", OPTIMIZERS, ids=lambda table: "-".join(map(str, table.values())))
def test_what_is_said_is_what_is_written(table: dict[str, Any], tmp_path: Path) -> None:
    plain = study()
    optimizer = OPTIMIZER_REGISTRY.resolve(table)
    training = plain.training.model_copy(update={"optimizer": optimizer})
    wanted = plain.model_copy(update={"training": training})
    said = need(wanted, in_hand=2)
    written = [checkpoint_of(arm, optimizer, tmp_path) for arm in wanted.arms()]
    assert said.trials == 12
    assert said.checkpoint == max(map(size_of, written))
    assert said.in_training == 2 * 3 * said.checkpoint
    assert said.weights == 3 * sum(size_of(tensors, "network/") for tensors in written)
    lines = said.lines(free=None)
    assert size(said.in_training) in lines[0]
    assert "of 2 trials in hand 3 of" in lines[0]
    assert f"weights of 12 finished trials: {size(said.weights)}" in lines[1]


def test_what_is_kept_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small = study(seeds=1)
    said = need(small, in_hand=64)
    assert said.in_training == said.trials * 3 * said.checkpoint  # no more than there are trials
    assert said.total == said.in_training + 2 * said.weights
    plain = said.lines(free=said.total)
    assert [line.split()[0] for line in plain] == ["disk"] * 3
    assert f"{size(said.total)} are free" in plain[2]
    *most, warning = said.lines(free=said.total - 1)
    assert most == plain
    assert warning.startswith(f"Warning: the study needs about {size(said.total)}")
    none = small.model_copy(
        update={"execution": small.execution.model_copy(update={"keep": "none"})}
    )
    assert need(none, 1).total == need(none, 1).in_training
    assert "none are kept" in need(none, 1).lines(free=None)[1]
    stored = small.model_copy(
        update={"execution": small.execution.model_copy(update={"checkpoints": "s3://bucket/x"})}
    )
    assert need(stored, 64).total == said.weights  # among the artifacts
    assert all(" in s3://bucket/x, " in line for line in need(stored, 64).lines(free=None))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert need(small, 64).total == said.in_training + said.weights
    assert need(stored, 64).total == 0


def test_free_is_what_the_disk_has_where_a_home_will_be(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "there" / "yet")
    assert free is not None
    assert abs(free - shutil.disk_usage(tmp_path).free) < 1e9  # others write meanwhile


def test_of_what_cannot_be_known_nothing_is_said(tmp_path: Path) -> None:
    broken = study(network="tests.own_parts:NoSuchNetwork")
    assert DiskNeed.of(broken, tmp_path, 1) is None
    search = Search.model_validate(
        {
            "trials": 2,
            "validation_fraction": 0.1,
            "confirm_seeds": 2,
            "space": {"network.width": {"low": 0.1, "high": 1.0}},
        }
    )
    searched = study(network="vgg16").model_copy(update={"search": search})
    assert DiskNeed.of(searched, tmp_path, 1) is None


def test_a_data_set_of_ones_own_says_its_form(tmp_path: Path) -> None:
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 6])
    with (tmp_path / "own.npz").open("wb"):
        npz.save(Arrays(images, labels, images[:2], labels[:2]), tmp_path / "own.npz")
    assert npz.form(tmp_path / "own.npz") == (32, 32, 3, 7)
