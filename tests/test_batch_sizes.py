"""Accuracy by batch size against plain evaluations, and which trials have it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adarelu_sweep import AdaReLU
from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training.batch_sizes import accuracy_by_batch_size, is_batch_dependent
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.precision import Precision
from tests.own_parts import Centred
from tests.trials import ENDLESS, begin, fingerprint, never, train, trial_settings

pytestmark = pytest.mark.usefixtures("one_thread")

PREFIX = "test/accuracy_batch_"
RUNNING = {"name": "adarelu", "eval_mode": "running"}
FP32 = Precision(bf16=False, memory_format=torch.contiguous_format)


@torch.no_grad()
def plain_accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, batch_size: int, precision: Precision
) -> float:
    """Percent of the images that are recognized in batches of that size."""
    network.eval()
    hits = 0
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].to(memory_format=precision.memory_format)
        with precision.autocast(torch.device("cpu")):
            predicted = network(batch).argmax(1)
        hits += sum(
            int(prediction == label)
            for prediction, label in zip(predicted, labels[start : start + batch_size], strict=True)
        )
    return 100 * hits / len(images)


def by_batch_size(trial: Trial) -> list[dict[int, float]]:
    """What every epoch has of it."""
    return [
        {int(k.removeprefix(PREFIX)): v for k, v in record.metrics.items() if k.startswith(PREFIX)}
        for record in trial.history.epochs
    ]


@pytest.mark.parametrize(
    ("network", "training"),
    [
        ("resnet18", {}),
        ("resnet18", {"eval_batch_size": 7}),
        ("resnet18", {"eval_batch_size": 1}),
        ("resnet18", {"batch_size": 1, "train_limit": 9}),
        ("resnet18", {"batch_size": 1000, "probes": False}),
        ("vgg16_bn", {"precision": "bf16"}),
        ("vgg16_bn", {"channels_last": False}),
    ],
)
@pytest.mark.parametrize("activation", ["adarelu", "tests.own_parts:Centred"])
def test_accuracies_are_those_of_plain_evaluations(
    tmp_path: Path, network: str, activation: str, training: dict[str, Any]
) -> None:
    settings = trial_settings(network, activation, "adam", **{"train_limit": 96, **training})
    trial = train(settings, tmp_path)
    *before, last = by_batch_size(trial)
    assert not any(before)
    assert list(last) == sorted({1, settings.training.batch_size, 1000})
    images, labels = trial.dataset.batch("test", torch.arange(40))
    for size, accuracy in last.items():
        expected = plain_accuracy(trial.network, images, labels, size, trial.precision)
        assert accuracy == pytest.approx(expected), size
    if settings.training.evaluation_batch_size in last:
        measured = trial.history.epochs[-1].metrics["test/accuracy"]
        assert last[settings.training.evaluation_batch_size] == measured


def test_batch_sizes_matter(tmp_path: Path) -> None:
    settings = trial_settings("resnet18", "adarelu", "adam", train_limit=96, test_limit=200)
    [*_, last] = by_batch_size(train(settings, tmp_path))
    assert len(set(last.values())) > 1


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu", {}),
        ("tests.own_parts:Drawing", {}),
        (RUNNING, {}),
        ("adarelu", {"validation_fraction": 0.25}),
    ],
)
def test_who_has_none(tmp_path: Path, activation: Any, options: dict[str, Any]) -> None:
    trial = train(trial_settings("vgg16_bn", activation, epochs=1, **options), tmp_path)
    assert by_batch_size(trial) == [{}]


def test_a_diverged_trial_has_them_at_its_end(tmp_path: Path) -> None:
    trial = train(trial_settings("vgg16_bn", "adarelu", ENDLESS), tmp_path)
    assert trial.history.outcome == "diverged"
    assert [list(sizes) for sizes in by_batch_size(trial)] == [[1, 24, 1000]]


def test_a_resume_in_the_last_epoch_gives_the_same(tmp_path: Path) -> None:
    settings = trial_settings("resnet18", "adarelu", epochs=2)
    undisturbed = train(settings, tmp_path / "undisturbed")
    disturbed = train(settings, tmp_path / "disturbed", [4])
    assert fingerprint(disturbed) == fingerprint(undisturbed)
    assert by_batch_size(disturbed)[-1]


# Without training


class Seen(nn.Module):
    """A network that notes the sizes of its batches, and recognizes bright images."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.act = activation
        self.sizes: list[int] = []
        self.votes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.votes.append(getattr(self.act, "vote_per_sample", False))
        bright = self.act(images).mean((1, 2, 3))
        return torch.stack([torch.zeros_like(bright), bright], 1)


def random_images(test: int) -> ResidentDataset:
    seed = 12
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    x_train, x_test = (rng.integers(0, 256, (n, 32, 32, 1), dtype=np.uint8) for n in (2, test))
    y_train, y_test = np.array([0, 1]), rng.integers(0, 2, test)
    return ResidentDataset(Arrays(x_train, y_train, x_test, y_test), "cpu")


@pytest.mark.parametrize(("test", "alone"), [(1010, 1000), (30, 30)])
def test_images_pass_one_by_one_where_none_can_be_asked_alone(test: int, alone: int) -> None:
    network, data = Seen(Centred()), random_images(test)
    accuracies = accuracy_by_batch_size(network, [network.act], data, 500, FP32, {500: 12.5})
    assert network.sizes == [1] * alone + [min(test, 1000)] + [test - 1000] * (test > 1000)
    images, labels = data.batch("test", torch.arange(test))
    assert accuracies == {
        1: plain_accuracy(network, images[:alone], labels[:alone], 1, FP32),
        500: 12.5,  # as it was known
        1000: plain_accuracy(network, images, labels, 1000, FP32),
    }


def test_samples_vote_alone_in_one_pass_over_the_whole_set() -> None:
    network, data = Seen(AdaReLU()), random_images(1010)
    accuracies = accuracy_by_batch_size(network, [network.act], data, 1000, FP32, {})
    assert network.sizes == [1000, 10] * 2
    assert network.votes == [True, True, False, False]
    images, labels = data.batch("test", torch.arange(1010))
    assert accuracies == {
        size: plain_accuracy(network, images, labels, size, FP32) for size in (1, 1000)
    }
    assert accuracies[1] != accuracies[1000]


def test_an_error_leaves_no_vote_per_sample() -> None:
    network, data = Seen(AdaReLU()), random_images(3)
    network.register_forward_hook(lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        accuracy_by_batch_size(network, [network.act], data, 32, FP32, {})
    assert network.votes == [True]
    assert network.act.vote_per_sample is False


def test_who_depends_on_the_batch(tmp_path: Path) -> None:
    assert not is_batch_dependent([])
    assert not is_batch_dependent([nn.ReLU(), AdaReLU("running")])
    assert is_batch_dependent([nn.ReLU(), AdaReLU()])
    trial = begin(trial_settings(epochs=1), tmp_path)
    assert is_batch_dependent(activation_layers(trial.network).values())
    list(trial.train(never))
    assert not any(layer.vote_per_sample for layer in activation_layers(trial.network).values())
