"""Pairing in whole sweeps: whoever trains a trial, and when, it shares what it should."""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.recording.ledger import Ledger, LedgerTrial
from adarelu_sweep.studies.plan import cells
from tests.sweeps import Command

pytestmark = pytest.mark.long

STUDY = """
name = "pairing"
[matrix]
dataset = "digits"
network = "vgg16"
activation = "relu"
seeds = [0]
[data]
train_limit = 48
test_limit = 20
[training]
epochs = 1
optimizer = { name = "sgd", lr = 0.02, momentum = 0.9 }
augmentation = { name = "crop_flip" }
probes = false # which are drawn for every trial
[report]
figures = false
register_model = false
"""

PAIRING = ("initial_weights", "batch_order", "augmentation")
NETWORK, SEED = 0, 2  # in the name of a trial

Trials = dict[tuple[str, str, int], LedgerTrial]
"""By network, activation and seed."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "home", GOMP_SPINCOUNT="1000")
    yield command
    command.close()


def launch(
    command: Command,
    study: Path,
    name: str,
    core: int,
    workers: int,
    networks: list[str],
    activations: list[str],
    seed: int,
) -> "subprocess.Popen[str]":
    """Start a sweep on one core, where every slot has one thread, however many there are."""
    tables = ", ".join(f"{{ name = '{network}', width = 0.0625 }}" for network in networks)
    return command.start(
        *("launch", study, "--name", name, "--gpus=none", f"--workers={workers}"),
        f"--set=matrix.network=[{tables}]",
        f"--set=matrix.activation={json.dumps(activations)}",
        f"--set=matrix.seeds=[{seed}]",
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def trials_of(command: Command, study: str) -> Trials:
    ledger = Ledger.existing(command.home / "optuna.db")
    book = ledger.open(study)
    settings = {cell.key: cell.settings for cell in cells(book.record.study)}
    trials = book.trials()
    ledger.close()
    assert sorted(trial.cell for trial in trials) == sorted(settings)
    found = {trial.cell: trial for trial in trials}
    return {(s.network.name, s.activation.name, s.seed): found[key] for key, s in settings.items()}


def said(trials: Trials, tag: str, *, by: tuple[int, ...]) -> dict[tuple[Any, ...], set[str]]:
    """The values of a tag, by those parts of the trials' names."""
    values: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for key, trial in trials.items():
        values[tuple(key[index] for index in by)].add(trial.tags[f"pairing.{tag}"])
    return values


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be pinned to a core")
def test_only_the_activation_differs_for_any_number_of_workers(
    command: Command, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    networks, activations = NETWORKS.names(), ACTIVATIONS.names()
    first, *_, last = 2 * sorted(os.sched_getaffinity(0))
    command.succeed("server", "start")
    # Side by side and in opposite orders: one worker, and three. And another seed.
    processes = [
        launch(command, study, "one", first, 1, networks, activations, 0),
        launch(command, study, "three", last, 3, networks[::-1], activations[::-1], 0),
        launch(command, study, "other", last, 1, networks, ["relu"], 1),
    ]
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
    one, three, other = (trials_of(command, name) for name in ("one", "three", "other"))

    assert len(one) == len(networks) * len(activations)
    assert three.keys() == one.keys()
    assert len({trial.tags["slot"] for trial in one.values()}) == 1
    assert len({trial.tags["slot"] for trial in three.values()}) > 1
    for key, trial in one.items():
        again = three[key]
        assert trial.threads == again.threads == 1
        assert trial.result == again.result, key
        shared = {tag: value for tag, value in trial.tags.items() if tag.startswith("pairing.")}
        assert set(shared) == {f"pairing.{name}" for name in PAIRING}
        assert shared == {tag: again.tags[tag] for tag in shared}, key

    both = one | other
    weights = said(both, "initial_weights", by=(NETWORK, SEED))
    assert [len(digests) for digests in weights.values()] == [1] * 2 * len(networks)
    assert len(set.union(*weights.values())) == 2 * len(networks)
    for draws in ("batch_order", "augmentation"):
        by_seed = said(both, draws, by=(SEED,))
        assert [len(digests) for digests in by_seed.values()] == [1, 1]
        assert by_seed[0,] != by_seed[1,]
