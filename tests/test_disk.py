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
from adarelu_sweep.studies.schema import Arm, Study
from adarelu_sweep.studies.search import Search
from adarelu_sweep.supervising import disk
from adarelu_sweep.supervising.disk import disk_lines
from adarelu_sweep.training.checkpoint import save_checkpoint
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
    save_checkpoint(folder, network, built, History())
    tensors = load_file(folder / CHECKPOINT)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("/step")}


def size_of(tensors: Mapping[str, Tensor], prefix: str = "") -> int:
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(prefix))


@pytest.mark.parametrize("table", OPTIMIZERS, ids=lambda table: "-".join(map(str, table.values())))
def test_what_is_said_is_what_is_written(
    table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    monkeypatch.setattr(disk, "size", lambda number: f"size {shown.append(number)}")
    plain = study()
    optimizer = OPTIMIZER_REGISTRY.resolve(table)
    training = plain.training.model_copy(update={"optimizer": optimizer})
    wanted = plain.model_copy(update={"training": training})
    said = disk_lines(wanted, tmp_path, tmp_path / "home", slots=2)
    assert "weights of 12 finished trials" in said[1]
    in_training, checkpoint, kept, _ = shown
    written = [checkpoint_of(arm, optimizer, tmp_path) for arm in wanted.arms()]
    assert checkpoint == max(map(size_of, written))
    assert in_training == 2 * 3 * checkpoint
    assert kept == 3 * sum(size_of(tensors, "network/") for tensors in written)


def test_what_is_kept_and_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = study(seeds=1)
    free = int(10e6)
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def said(**changes: Any) -> list[str]:
        return disk_lines(small.model_copy(update=changes), tmp_path, tmp_path / "a" / "b", 64)

    plain = said()
    assert [line.split()[0] for line in plain] == ["disk"] * 3
    assert f"{size(free)} are free" in plain[2]
    usage = usage._replace(free=10**5)
    short = said()
    assert short[:2] == plain[:2]
    assert short[3].startswith("Warning: the study needs about ")
    assert f"where {size(10**5)} are free" in short[3]
    none = said(execution=small.execution.model_copy(update={"keep": "none"}))
    assert "none are kept" in none[1]


def test_of_what_cannot_be_known_nothing_is_said(tmp_path: Path) -> None:
    broken = study(network="tests.own_parts:NoSuchNetwork")
    assert disk_lines(broken, tmp_path, tmp_path, 1) == []
    search = Search.model_validate(
        {
            "trials": 2,
            "validation_fraction": 0.1,
            "confirm_seeds": 2,
            "space": {"network.width": {"low": 0.1, "high": 1.0}},
        }
    )
    searched = study(network="vgg16").model_copy(update={"search": search})
    assert disk_lines(searched, tmp_path, tmp_path, 1) == []


def test_a_data_set_of_ones_own_says_its_form(tmp_path: Path) -> None:
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 6])
    with (tmp_path / "own.npz").open("wb"):
        npz.save(Arrays(images, labels, images[:2], labels[:2]), tmp_path / "own.npz")
    assert npz.form(tmp_path / "own.npz") == (3, 7)
