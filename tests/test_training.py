"""Training: the same numbers however often it is interrupted, and numbers that mean what they say.

Everything here trains real, tiny networks on the built-in digits, on the CPU with one thread.
"""

import hashlib
import json
import math
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from adarelu_sweep import AdaReLU
from adarelu_sweep.activations.registry import ACTIVATIONS as ACTIVATION_REGISTRY
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.files import write_atomically
from adarelu_sweep.launching.messages import FROM_WORKER, EpochDone, Finished, Started
from adarelu_sweep.networks.digest import weight_digest
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.description import Description
from adarelu_sweep.training.evaluation import evaluate
from adarelu_sweep.training.history import (
    CHECKPOINT,
    CONFUSION_MATRIX,
    MODEL,
    PREVIOUS,
    EpochRecord,
    History,
)
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.registry import OPTIMIZERS, SCHEDULES
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.stopping import StopRequestedError
from adarelu_sweep.training.streams import batch_order, generator, validation_split
from tests.trials import (
    BATCHES,
    ENDLESS,
    EPOCHS,
    OPTIMIZER_TABLES,
    STEPS,
    after,
    begin,
    digest,
    digits,
    fingerprint,
    measured,
    never,
    train,
    trial_settings,
)

NETWORKS = ["vgg16_bn", "resnet18"]
PRECISIONS = ["fp32", "bf16"]
ACTIVATIONS = ["adarelu", "prelu"]
RUNNING = {"name": "adarelu", "eval_mode": "running"}

pytestmark = pytest.mark.usefixtures("one_thread")


# Interruptions


CASES = [  # half of all, in which every two values of two of them meet
    case
    for position, case in enumerate(product(OPTIMIZER_TABLES, NETWORKS, PRECISIONS, ACTIVATIONS))
    if position.bit_count() % 2
]


@pytest.mark.parametrize(("optimizer", "network", "precision", "activation"), CASES)
def test_an_interrupted_trial_gives_the_same_numbers(
    tmp_path: Path, optimizer: str, network: str, precision: str, activation: str
) -> None:
    settings = trial_settings(network, activation, optimizer, precision=precision, epochs=2)
    undisturbed = train(settings, tmp_path / "undisturbed")
    assert undisturbed.history.outcome == "complete"
    # In the second epoch, in every case at another step, and then in what is left.
    place = CASES.index((optimizer, network, precision, activation)) % STEPS
    stops = [STEPS + place, place + 1]
    disturbed = train(settings, tmp_path / "disturbed", stops)
    assert fingerprint(disturbed) == fingerprint(undisturbed)


@pytest.mark.parametrize(("network", "optimizer"), [("vgg16_bn", "sgd"), ("resnet18", "adamw")])
def test_every_step_is_a_good_place_to_stop(tmp_path: Path, network: str, optimizer: str) -> None:
    settings = trial_settings(network, "prelu", optimizer, epochs=2)
    expected = fingerprint(train(settings, tmp_path / "undisturbed"))
    for steps in range(2 * STEPS):
        folder = tmp_path / str(steps)
        trial = begin(settings, folder)
        with pytest.raises(StopRequestedError):
            list(trial.train(after(steps)))
        assert len(trial.history.epochs) == steps // STEPS
        assert fingerprint(train(settings, folder)) == expected, steps


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        (RUNNING, {}),
        (RUNNING, {"precision": "bf16"}),
        ("adarelu", {"augmentation": "crop_flip", "validation_fraction": 0.2}),
    ],
)
def test_interruptions_with_all_that_may_be_added(
    tmp_path: Path, activation: Any, options: dict[str, Any]
) -> None:
    settings = trial_settings("vgg16_bn", activation, **options)
    undisturbed = train(settings, tmp_path / "undisturbed")
    disturbed = train(settings, tmp_path / "disturbed", [1, STEPS + 1, 2])
    assert fingerprint(disturbed) == fingerprint(undisturbed)
    state = load_file(tmp_path / "disturbed" / MODEL)
    balances = [value.item() for key, value in state.items() if key.endswith("running_balance")]
    assert len(balances) == (13 if activation == RUNNING else 0)
    assert all(balances)


@cache
def undisturbed_fingerprint(folder: Path, optimizer: str) -> tuple[Any, ...]:
    settings = trial_settings("vgg16_bn", "adarelu", optimizer)
    return fingerprint(train(settings, folder / optimizer))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


@given(
    optimizer=st.sampled_from(sorted(OPTIMIZER_TABLES)),
    stops=st.lists(st.integers(0, EPOCHS * STEPS), max_size=6),
)
@hypothesis_settings(max_examples=8, deadline=None, print_blob=True)
def test_any_number_of_interruptions(
    references: Path, optimizer: str, stops: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = trial_settings("vgg16_bn", "adarelu", optimizer)
    disturbed = train(settings, tmp_path_factory.mktemp("disturbed"), stops)
    assert fingerprint(disturbed) == undisturbed_fingerprint(references, optimizer)


IN_A_PROCESS = """
import sys
from itertools import count
from pathlib import Path
import torch
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.stopping import StopRequestedError
from adarelu_sweep.training.settings import TrialSettings

settings = TrialSettings.model_validate_json(sys.argv[1])
folder, steps, done = Path(sys.argv[2]), int(sys.argv[3]), count()
torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[4]))  # what happens to be there must not matter
torch.rand(1000)
limits = settings.data.train_limit, settings.data.test_limit
trial = Trial(settings, ResidentDataset.load("digits", folder, "cpu", *limits), folder)
try:
    list(trial.train(lambda: next(done) >= steps))
    print("done")
except StopRequestedError:
    print("stopped")
"""


def train_in_a_process(settings: TrialSettings, folder: Path, steps: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [settings.model_dump_json(), str(folder), str(steps), str(steps)]
    command = [sys.executable, "-c", IN_A_PROCESS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.long
def test_another_process_gives_the_same_numbers(tmp_path: Path) -> None:
    settings = trial_settings("resnet18", "adarelu", "adam", precision="bf16")
    here = train(settings, tmp_path / "here")
    there = tmp_path / "there"
    assert train_in_a_process(settings, there, 2 * STEPS + 1) == "stopped"
    assert len(History.read(there).epochs) == 2
    assert fingerprint(train(settings, there)) == fingerprint(here)


def test_the_first_attempt_does_not_depend_on_global_random_state(tmp_path: Path) -> None:
    settings = trial_settings(epochs=1)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        results.append(fingerprint(train(settings, tmp_path / str(seed))))
    assert results[0] == results[1]


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    first, second = (train(trial_settings(seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert measured(first.history) != measured(second.history)
    assert digest(first.network.state_dict()) != digest(second.network.state_dict())


# Checkpoints and history


def test_one_checkpoint_per_epoch_with_the_whole_history(tmp_path: Path) -> None:
    trial = begin(trial_settings(), tmp_path)
    seen: list[int | None] = []  # which file is the checkpoint, before every step

    def look() -> bool:
        path = tmp_path / CHECKPOINT
        seen.append(path.stat().st_mtime_ns if path.exists() else None)
        return False

    for done, record in enumerate(trial.train(look, one_by_one=True), start=1):
        stored = History.read(tmp_path)
        assert record.epoch == done == len(stored.epochs)
        assert stored == trial.history
        assert stored.epochs[-1] == record
        assert stored.outcome == ("complete" if done == EPOCHS else None)
        with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
            assert json.loads(file.metadata()["history"])["epochs"][-1]["epoch"] == done
        beside = {1: set(), 2: {PREVIOUS}, 3: {MODEL, CONFUSION_MATRIX}}
        names = {CHECKPOINT} | beside[done]
        assert {path.name for path in tmp_path.iterdir()} == names
    epochs = [seen[start : start + STEPS] for start in range(0, EPOCHS * STEPS, STEPS)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)
    assert len({epoch[0] for epoch in epochs}) == EPOCHS


def test_resuming_keeps_what_was_recorded(tmp_path: Path) -> None:
    settings = trial_settings()
    first = begin(settings, tmp_path)
    with pytest.raises(StopRequestedError):
        list(first.train(after(STEPS)))
    [kept] = first.history.epochs
    second = begin(settings, tmp_path)
    assert second.history == first.history
    list(second.train(never))
    assert second.history.epochs[0] == kept  # the timestamp and the seconds too
    timestamps = [record.timestamp for record in second.history.epochs]
    assert timestamps == sorted(timestamps)
    assert abs(timestamps[-1] / 1000 - time.time()) < 600


def test_a_finished_trial_has_nothing_to_train(tmp_path: Path) -> None:
    settings = trial_settings(epochs=1)
    train(settings, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert list(begin(settings, tmp_path).train(never)) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_reading_the_history_needs_no_torch(tmp_path: Path) -> None:
    trial = train(trial_settings(epochs=2), tmp_path / "trial")
    code = (
        "import sys; from pathlib import Path\n"
        "from adarelu_sweep.training.history import History\n"
        "print(History.read(Path(sys.argv[1])).model_dump_json())\n"
        "print(History.read(Path(sys.argv[1]) / 'none').model_dump_json())\n"
        "print([name for name in ('torch', 'optuna', 'mlflow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(trial.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stored, empty, heavy = done.stdout.splitlines()
    assert History.model_validate_json(stored) == trial.history
    assert History.model_validate_json(empty) == History()
    assert heavy == "[]"


# A loss that is not finite


def check_diverged(trial: Trial, at_epoch: int) -> None:
    history = trial.history
    assert (history.outcome, len(history.epochs)) == ("diverged", at_epoch)
    last = history.epochs[-1].metrics
    assert not (math.isfinite(last["train/loss"]) and math.isfinite(last["test/loss"]))
    assert 0 <= last["test/accuracy"] <= 100
    for record in history.epochs[:-1]:
        assert all(map(math.isfinite, record.metrics.values()))
    # It is evaluated and kept like any other, and not taken up again.
    confusion = confusion_of(trial.folder)
    assert int(confusion.sum()) == trial.settings.data.test_limit
    assert (trial.folder / MODEL).exists()
    again = begin(trial.settings, trial.folder)
    assert measured(again.history) == measured(history)
    assert again.history.outcome == "diverged"
    assert list(again.train(never)) == []


def test_divergence_in_the_first_epoch(tmp_path: Path) -> None:
    trial = train(trial_settings("resnet18", "prelu", ENDLESS), tmp_path)
    check_diverged(trial, at_epoch=1)
    assert math.isnan(trial.history.epochs[0].metrics["train/loss"])


def test_divergence_that_only_the_evaluation_sees(tmp_path: Path) -> None:
    # The one step of the epoch has a finite loss, and ruins the weights.
    trial = train(trial_settings("vgg16_bn", "adarelu", ENDLESS, batch_size=56), tmp_path)
    check_diverged(trial, at_epoch=1)
    assert math.isfinite(trial.history.epochs[0].metrics["train/loss"])


@pytest.mark.parametrize("stops", [[], [STEPS + 1]])
def test_divergence_in_a_later_epoch(tmp_path: Path, stops: list[int]) -> None:
    schedule = {"name": "step", "step_size": 1, "gamma": 1e30}
    settings = trial_settings("vgg16_bn", "prelu", "sgd", schedule=schedule)
    check_diverged(train(settings, tmp_path, stops), at_epoch=2)


def test_not_a_number_survives_history_and_messages(tmp_path: Path) -> None:
    history = train(trial_settings("vgg16_bn", "prelu", ENDLESS), tmp_path).history
    assert measured(History.model_validate_json(history.model_dump_json())) == measured(history)
    for message in (Started(trial=3, history=history), Finished(trial=3, history=history)):
        arrived = FROM_WORKER.validate_json(message.model_dump_json())
        assert isinstance(arrived, type(message))
        assert measured(arrived.history) == measured(history)
    arrived = FROM_WORKER.validate_json(
        EpochDone(trial=3, record=history.epochs[0]).model_dump_json()
    )
    assert isinstance(arrived, EpochDone)
    assert measured(History(epochs=[arrived.record])) == measured(history)


@given(
    metrics=st.dictionaries(st.text(), st.floats()),
    timestamp=st.integers(0, 2**53),
    outcome=st.sampled_from([None, "complete", "diverged"]),
)
@hypothesis_settings(print_blob=True)
def test_any_number_survives(metrics: dict[str, float], timestamp: int, outcome: Any) -> None:
    record = EpochRecord(epoch=1, timestamp=timestamp, metrics=metrics)
    history = History(epochs=[record], outcome=outcome)
    for arrived in (
        History.model_validate_json(history.model_dump_json()),
        Finished.model_validate_json(Finished(trial=0, history=history).model_dump_json()).history,
    ):
        assert measured(arrived) == measured(history)
        assert arrived.epochs[0].timestamp == timestamp
        assert arrived.outcome == outcome


# Evaluation


def confusion_of(folder: Path) -> Tensor:
    lines = (folder / CONFUSION_MATRIX).read_text().splitlines()
    return torch.tensor([[int(cell) for cell in line.split(",")] for line in lines])


@pytest.mark.parametrize("network", NETWORKS)
def test_confusion_matrix(tmp_path: Path, network: str) -> None:
    settings = trial_settings(
        network, "prelu", "adam", train_limit=128, test_limit=64, batch_size=16
    )
    trial = train(settings, tmp_path)
    confusion = confusion_of(tmp_path)
    labels = trial.dataset.labels["test"]
    assert confusion.shape == (10, 10)
    assert confusion.sum(1).tolist() == torch.bincount(labels, minlength=10).tolist()
    accuracy = 100 * int(confusion.diagonal().sum()) / 64
    assert accuracy == trial.history.epochs[-1].metrics["test/accuracy"]
    assert accuracy > 15  # it has learnt something
    # Rows are labels and columns are predictions.
    images, _ = trial.dataset.batch("test", torch.arange(64), trial.precision.memory_format)
    with torch.no_grad():
        predicted = trial.network.eval()(images).argmax(1)
    assert torch.equal(
        confusion, torch.bincount(labels * 10 + predicted, minlength=100).view(10, 10)
    )


@pytest.mark.parametrize(
    ("training", "batches"),
    [({}, [24, 16]), ({"eval_batch_size": 15}, [15, 15, 10]), ({"eval_batch_size": 999}, [40])],
)
def test_evaluation_batch_size(tmp_path: Path, training: Any, batches: list[int]) -> None:
    trial = begin(trial_settings(activation="relu", epochs=1, **training), tmp_path)
    sizes: dict[bool, list[int]] = {True: [], False: []}  # in training mode, or not

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        sizes[module.training].append(len(inputs[0]))

    trial.network.register_forward_pre_hook(look)
    list(trial.train(never))
    assert sizes == {True: [24, 24, 8], False: batches}


def test_evaluation_batches_matter_to_adarelu(tmp_path: Path) -> None:
    trial = train(trial_settings("resnet18"), tmp_path)
    losses = {
        size: evaluate(trial.network, trial.dataset, "test", size, trial.precision).loss
        for size in (1, 24, 40)
    }
    assert len(set(losses.values())) == 3
    assert losses[24] == trial.history.epochs[-1].metrics["test/loss"]


class Branches:
    """Which branch every AdaReLU took in the last evaluation."""

    def __init__(self, network: nn.Module) -> None:
        self.taken: dict[str, bool] = {}
        for name, module in network.named_modules():
            if isinstance(module, AdaReLU):
                module.register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            assert output.any()
            assert not ((output > 0).any() and (output < 0).any())
            self.taken[name] = bool((output < 0).any())

        return keep


@pytest.mark.parametrize("network", NETWORKS)
def test_with_a_running_vote_a_prediction_does_not_depend_on_its_neighbours(
    tmp_path: Path, network: str
) -> None:
    seed = 4
    print(f"seed {seed}")
    draws = torch.Generator().manual_seed(seed)
    settings = {
        mode: trial_settings(network, {"name": "adarelu", "eval_mode": mode}, train_limit=128)
        for mode in ("running", "batch")
    }
    trials = {
        "running": train(settings["running"], tmp_path / "running"),  # it has to have voted
        # Untrained: some processors' last bits lead to a network that does not look at its input.
        "batch": begin(settings["batch"], tmp_path / "batch"),
    }
    images, _ = trials["running"].dataset.batch("test", torch.arange(40))
    batches = [
        torch.cat([torch.tensor([0]), torch.randperm(39, generator=draws)[:size] + 1])
        for size in (1, 2, 7, 20, 39)
    ]
    differences = {}
    with torch.no_grad():
        for mode, trial in trials.items():
            branches = Branches(trial.network.eval())
            alone = trial.network(images[:1])
            taken_alone = dict(branches.taken)
            differences[mode] = []
            for batch in batches:
                logits = trial.network(images[batch])[:1]
                change = (logits - alone).abs().max() / alone.abs().max()
                differences[mode].append(change.item())
                if mode == "running":
                    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
                    assert branches.taken == taken_alone
    assert len(taken_alone) == (13 if network == "vgg16_bn" else 17)
    assert max(differences["batch"]) > 100 * max(differences["running"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_changes_nothing(tmp_path: Path, split: Any) -> None:
    trial = begin(trial_settings("resnet18", "prelu"), tmp_path)
    before = digest(trial.network.state_dict())
    result = evaluate(trial.network, trial.dataset, split, 7, trial.precision)
    assert digest(trial.network.state_dict()) == before
    assert all(parameter.grad is None for parameter in trial.network.parameters())
    assert int(result.confusion.sum()) == trial.dataset.size(split)


def test_the_model_that_is_kept_is_the_one_that_was_measured(tmp_path: Path) -> None:
    settings = trial_settings("resnet18", "prelu")
    trial = train(settings, tmp_path)
    fresh = build_network(settings.network, settings.activation, 1, 10, generator(1, "other"))
    fresh.load_state_dict(load_file(tmp_path / MODEL))
    fresh.to(memory_format=trial.precision.memory_format)
    result = evaluate(fresh, trial.dataset, "test", 24, trial.precision)
    last = trial.history.epochs[-1].metrics
    assert (result.loss, result.accuracy) == (last["test/loss"], last["test/accuracy"])
    with safe_open(tmp_path / MODEL, framework="pt") as file:
        assert file.metadata()["data"]
    described = Description.read(tmp_path)
    assert (described.settings, described.epoch) == (settings, EPOCHS)
    assert described.accuracy == last["test/accuracy"]


# A validation split


def test_a_trial_with_a_validation_split_is_measured_on_it(tmp_path: Path) -> None:
    settings = trial_settings("resnet18", "prelu", "adam", validation_fraction=0.25, epochs=2)
    assert settings.measured_on == "val"
    trial = begin(settings, tmp_path)
    entered: dict[bool, list[Tensor]] = {True: [], False: []}  # in training mode, or not
    trial.network.register_forward_pre_hook(
        lambda module, inputs: entered[module.training].append(inputs[0].clone())
    )
    for record in trial.train(never):
        splits = {key.partition("/")[0] for key in record.metrics if "/" in key}
        assert splits == {"train", "val"}
    whole = digits(56, 40)
    held_out = validation_split(settings.seed, 56, 0.25)
    assert len(held_out) == 14
    rest = [index for index in range(56) if index not in held_out]

    def normalized(images: Tensor) -> list[bytes]:
        # Digits fill 32 x 32 pixels: there is no padding to leave out.
        used = whole.images["train"][rest].double()
        mean, deviation = used.mean().float(), used.std(correction=0).float()
        return [image.numpy().tobytes() for image in (images.float() - mean) / deviation]

    seen = torch.cat(entered[True]).contiguous()
    assert len(seen) == 2 * 42
    assert {image.numpy().tobytes() for image in seen} == set(
        normalized(whole.images["train"][rest])
    )
    evaluated = [image.numpy().tobytes() for image in torch.cat(entered[False]).contiguous()]
    assert evaluated == 2 * normalized(whole.images["train"][held_out])
    # What is kept of the trial is of the split, too.
    confusion = confusion_of(tmp_path)
    labels = whole.labels["train"][held_out]
    assert confusion.sum(1).tolist() == torch.bincount(labels, minlength=10).tolist()
    accuracy = 100 * int(confusion.diagonal().sum()) / 14
    assert accuracy == trial.history.epochs[-1].metrics["val/accuracy"]


def test_a_trial_without_one_is_measured_on_the_test_set(tmp_path: Path) -> None:
    trial = train(trial_settings(activation="relu", epochs=1), tmp_path)
    assert trial.settings.measured_on == "test"
    splits = {key.partition("/")[0] for key in trial.history.epochs[0].metrics if "/" in key}
    assert splits == {"train", "test"}


# Pruning


def test_a_pruned_trial_ends_with_the_epochs_it_has(tmp_path: Path) -> None:
    settings = trial_settings(validation_fraction=0.25)
    trial = begin(settings, tmp_path)
    records = []
    for record in trial.train(never, one_by_one=True):
        records.append(record)
        if record.epoch == 2:
            trial.prune()
    assert [record.epoch for record in records] == [1, 2]
    stored = History.read(tmp_path)
    assert (stored.epochs, stored.outcome) == (records, "pruned")
    assert Description.read(tmp_path).epoch == 2
    assert digest(load_file(tmp_path / MODEL)) == digest(trial.network.state_dict())
    again = begin(settings, tmp_path)
    assert (again.history, again.notes) == (stored, [])
    assert list(again.train(never)) == []


# Pairing


def pairing(folder: Path, **options: Any) -> dict[str, str]:
    return begin(trial_settings(**options), folder).pairing


def test_pairing_says_what_a_trial_shares(tmp_path: Path) -> None:
    options = {"augmentation": "crop_flip", "validation_fraction": 0.25}
    shared = pairing(tmp_path, **options)
    assert set(shared) == {"initial_weights", "batch_order", "augmentation", "validation_split"}
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in shared.values())
    assert set(pairing(tmp_path)) == {"initial_weights", "batch_order"}
    for activation in ACTIVATION_REGISTRY.names():
        assert pairing(tmp_path, activation=activation, **options) == shared
    changed = {
        "initial_weights": pairing(tmp_path, network="resnet18", **options),
        "validation_split": pairing(tmp_path, **options | {"validation_fraction": 0.26}),
        "augmentation": pairing(
            tmp_path, **options | {"augmentation": {"name": "crop_flip", "padding": 3}}
        ),
    }
    for name, other in changed.items():
        assert other[name] != shared[name]
    assert changed["initial_weights"] == shared | {
        "initial_weights": changed["initial_weights"]["initial_weights"]
    }
    other_seed = pairing(tmp_path, seed=6, **options)
    assert not set(other_seed.values()) & set(shared.values())


def test_pairing_is_what_the_first_epoch_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trial_settings("resnet18", augmentation="crop_flip", validation_fraction=0.25)
    trial = begin(settings, tmp_path)
    shared = dict(trial.pairing)
    seen: list[Tensor] = []
    gather = trial.dataset.batch

    def noting(split: Any, indices: Tensor, *others: Any) -> Any:
        seen.append(indices)
        return gather(split, indices, *others)

    monkeypatch.setattr(trial.dataset, "batch", noting)
    assert weight_digest(trial.network) == shared["initial_weights"]
    next(trial.train(never))
    order = batch_order(settings.seed, 0, 42)
    assert torch.equal(torch.cat(seen[:2]), order)  # then comes the evaluation
    hashed = hashlib.sha256(order.numpy().tobytes()).hexdigest()
    assert shared["batch_order"] == hashed[:16]
    # A resume says the same, whatever the checkpoint holds.
    train(settings, tmp_path)
    assert begin(settings, tmp_path).pairing == shared


# Schedule


SCHEDULE_TABLES: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "constant": ({"name": "constant"}, lambda epoch: 0.05),
    "step": (
        {"name": "step", "step_size": 2, "gamma": 0.5},
        lambda epoch: [0.05, 0.05, 0.025, 0.025, 0.0125][epoch],
    ),
    "cosine": (
        {"name": "cosine"},
        lambda epoch: 0.05 * (1 + math.cos(math.pi * epoch / 5)) / 2,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_the_optimizer_follows_the_schedule(tmp_path: Path, name: str, optimizer: str) -> None:
    schedule, expected = SCHEDULE_TABLES[name]
    table = {"name": optimizer, "lr": 0.05}
    settings = trial_settings(
        "vgg16_bn", "prelu", table, epochs=5, schedule=schedule, train_limit=16, test_limit=8
    )
    trial = begin(settings, tmp_path)
    used: list[list[float]] = []
    trial.optimizer.register_step_pre_hook(
        lambda taken, *_: used.append([group["lr"] for group in taken.param_groups])
    )
    recorded = [record.metrics["lr"] for record in trial.train(never)]
    # One batch per epoch; two groups, of which the second are the PReLUs' slopes.
    assert used == [[lr, lr] for lr in recorded]
    assert recorded == pytest.approx([expected(epoch) for epoch in range(5)], rel=1e-12)


def test_step_is_torchs_own_and_lasts_over_a_resume(tmp_path: Path) -> None:
    schedule = {"name": "step", "step_size": 2, "gamma": 0.9}
    settings = trial_settings(
        "vgg16_bn", "prelu", epochs=7, schedule=schedule, train_limit=8, test_limit=8
    )
    trial = train(settings, tmp_path, stops=[3, 1])
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
    expected = []
    for _ in range(7):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [r.metrics["lr"] for r in trial.history.epochs] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"name": "sgd", "lr": 0.1, "momentum": 0.8, "weight_decay": 0.01, "nesterov": True},
            {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01, "nesterov": True},
        ),
        (
            {"name": "adam", "beta1": 0.5, "beta2": 0.6, "eps": 0.1, "weight_decay": 0.2},
            {"lr": 0.001, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.2},
        ),
        ({"name": "adamw"}, {"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 0.01}),
    ],
)
def test_arguments_reach_the_optimizer(
    tmp_path: Path, table: dict[str, Any], expected: dict[str, Any]
) -> None:
    trial = begin(trial_settings(optimizer=table), tmp_path)
    [group] = trial.optimizer.param_groups
    assert {name: group[name] for name in expected} == expected
    assert len(group["params"]) == len(list(trial.network.parameters()))


# Batches


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10_000), images=st.integers(1, 3000))
@hypothesis_settings(deadline=None, print_blob=True)
def test_the_batch_order_is_a_permutation(seed: int, epoch: int, images: int) -> None:
    order = batch_order(seed, epoch, images)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(images))
    torch.rand(3)
    assert torch.equal(batch_order(seed, epoch, images), order)


def test_the_batch_order_differs_by_epoch_and_seed() -> None:
    orders = {
        tuple(batch_order(seed, epoch, 50).tolist()) for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


def batches_of(settings: TrialSettings, folder: Path) -> list[str]:
    trial = begin(settings, folder)
    seen: list[str] = []

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training:
            seen.append(digest({"images": inputs[0]}))

    trial.network.register_forward_pre_hook(look)
    list(trial.train(never))
    return seen


def test_trials_that_differ_in_the_activation_see_the_same(tmp_path: Path) -> None:
    first = {
        activation: batches_of(
            trial_settings(activation=activation, epochs=2), tmp_path / activation
        )
        for activation in ("adarelu", "prelu", "relu", "tanh")
    }
    reference = first.pop("relu")
    assert len(set(reference)) == 2 * BATCHES  # every batch is another
    for activation, seen in first.items():
        assert seen == reference, activation
    other_seed = batches_of(trial_settings(activation="relu", epochs=2, seed=6), tmp_path / "6")
    assert not set(other_seed) & set(reference)


def test_trials_that_differ_in_the_activation_start_from_the_same_weights(tmp_path: Path) -> None:
    for network in NETWORKS:
        states = []
        for activation in ("adarelu", "prelu"):
            trial = begin(trial_settings(network, activation), tmp_path / network / activation)
            state = trial.network.state_dict()
            states.append(digest({k: v for k, v in state.items() if "act" not in k}))
        assert states[0] == states[1]


# The numbers


def plain_first_epoch(
    settings: TrialSettings, network: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Train and evaluate one epoch as one would write it down, from the images themselves."""
    training, data = settings.training, settings.data
    arrays = read("digits", Path())
    chosen = {"train": data.train_limit, "test": data.test_limit}
    subset = ResidentDataset(arrays, "cpu", *chosen.values())
    y_train, y_test = subset.labels["train"], subset.labels["test"]
    used = subset.images["train"].double()
    mean, deviation = used.mean().float(), used.std(correction=0).float()
    # In the same layout, because the layout decides how a convolution rounds its sums.
    x_train, x_test = (
        ((subset.images[split].float() - mean) / deviation).to(memory_format=torch.channels_last)
        for split in ("train", "test")
    )
    order = batch_order(settings.seed, 0, len(x_train))

    loss_sum, hits = 0.0, 0
    network.train()
    for start in range(0, len(order), training.batch_size):
        batch = order[start : start + training.batch_size]
        optimizer.zero_grad()
        logits = network(x_train[batch])
        loss = F.cross_entropy(logits, y_train[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.item() * len(batch)
        hits += int((logits.argmax(1) == y_train[batch]).sum())

    network.eval()
    test_loss, test_hits = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(x_test), training.evaluation_batch_size):
            images = x_test[start : start + training.evaluation_batch_size]
            labels = y_test[start : start + training.evaluation_batch_size]
            logits = network(images)
            test_loss += F.cross_entropy(logits, labels, reduction="sum").item()
            test_hits += int((logits.argmax(1) == labels).sum())
    return {
        "train/loss": loss_sum / len(x_train),
        "train/accuracy": 100 * hits / len(x_train),
        "test/loss": test_loss / len(x_test),
        "test/accuracy": 100 * test_hits / len(x_test),
    }


PLAIN_OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.001),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize(
    ("network", "activation", "optimizer"),
    [
        ("vgg16_bn", "adarelu", "sgd"),
        ("vgg16_bn", "prelu", "adam"),
        ("resnet18", "adarelu", "adamw"),
        ("resnet18", "prelu", "sgd"),
    ],
)
def test_the_numbers_are_those_of_plain_pytorch(
    tmp_path: Path, network: str, activation: str, optimizer: str
) -> None:
    settings = trial_settings(
        network, activation, optimizer, epochs=1, train_limit=128, test_limit=64, batch_size=48
    )
    plain = begin(settings, tmp_path / "initial").network
    slopes = [p for m in plain.modules() if isinstance(m, nn.PReLU) for p in m.parameters()]
    others = [p for p in plain.parameters() if all(p is not slope for slope in slopes)]
    groups = [{"params": others}, {"params": slopes, "weight_decay": 0}]
    expected = plain_first_epoch(settings, plain, PLAIN_OPTIMIZERS[optimizer](groups))
    [record] = train(settings, tmp_path / "trial").history.epochs
    got = {name: record.metrics[name] for name in expected}
    assert got == pytest.approx(expected, rel=1e-6)
    assert record.metrics["lr"] == settings.training.optimizer.arguments["lr"]
    assert record.metrics["epoch_seconds"] > 0
    assert record.metrics["images_per_second"] == pytest.approx(
        128 / record.metrics["epoch_seconds"]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bf16_is_near_fp32_and_keeps_fp32_weights(tmp_path: Path, activation: str) -> None:
    losses = {}
    for precision in PRECISIONS:
        settings = trial_settings("resnet18", activation, "sgd", precision=precision, epochs=1)
        trial = train(settings, tmp_path / precision)
        losses[precision] = trial.history.epochs[0].metrics["train/loss"]
        floats = [t for t in trial.network.state_dict().values() if t.is_floating_point()]
        assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)


def test_the_memory_format_changes_speed_only(tmp_path: Path) -> None:
    losses = []
    for channels_last in (True, False):
        settings = trial_settings("resnet18", "prelu", channels_last=channels_last, epochs=1)
        trial = train(settings, tmp_path / str(channels_last))
        losses.append(trial.history.epochs[0].metrics["train/loss"])
        weight = dict(trial.network.named_parameters())["blocks.0.conv1.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# Writing a file whole or not at all

WRITER = """
import sys
from itertools import count
from pathlib import Path
from adarelu_sweep.files import write_atomically
for number in count():
    write_atomically(Path(sys.argv[1]), bytes([number % 256]) * 3_000_000)
"""


def test_a_killed_writer_leaves_whole_content(tmp_path: Path) -> None:
    seed = 20260
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "file"
    path.write_bytes(b"\xff" * 3_000_000)
    for _ in range(6):
        before = path.stat().st_ino
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        deadline = time.monotonic() + 60
        while path.stat().st_ino == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        assert writer.poll() is None
        writer.kill()
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1


# The kernel ends the process, or refuses, in the middle of the write, at a given size of a file.
LIMITED_WRITER = """
import resource, signal, sys
from pathlib import Path
from adarelu_sweep.files import write_atomically
signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[2]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1_000_000)
except OSError:
    sys.exit(7)
"""


@pytest.mark.parametrize(("handler", "status"), [("SIG_DFL", -signal.SIGXFSZ), ("SIG_IGN", 7)])
def test_a_write_that_ends_in_the_middle_leaves_the_old_content(
    tmp_path: Path, handler: str, status: int
) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = [sys.executable, "-c", LIMITED_WRITER, str(path), handler]
    assert subprocess.run(code).returncode == status
    assert path.read_bytes() == b"old"
    if status == 7:  # the writer was there to tidy up
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
