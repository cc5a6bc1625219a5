"""Probes against plain loops over what really left every activation layer, image by image."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from adarelu_sweep import AdaReLU
from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.training.probes import LayerProbes, Probes
from tests.trials import STEPS, begin, fingerprint, never, train, trial_settings

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[np.float32]
RUNNING = {"name": "adarelu", "eval_mode": "running"}
OWN = {"name": "torch.nn:Threshold", "threshold": 0.5, "value": 0.0}  # knows nothing of probes
EVALUATION_BATCHES = 2  # of 24 and of 16 images
ACTIVITY = {"dead_fraction", "sparsity"}
BRANCHES = {"negative_branch_rate", "branch_change_rate", "imbalance"}


# As one would write it down


def activity(batches: list[Array]) -> dict[str, float]:
    """What the outputs of one evaluation say, batch x unit axes each."""
    ever_active = np.zeros(batches[0].shape[1:], dtype=bool)
    for batch in batches:
        for image in batch:
            ever_active |= image != 0
    return {
        "dead_fraction": (ever_active.size - np.count_nonzero(ever_active)) / ever_active.size,
        "sparsity": sum(np.count_nonzero(image == 0) for image in batches[0]) / batches[0].size,
    }


def branches(batches: list[Array]) -> dict[str, float]:
    """What the pre-activations of one epoch of training say."""
    positives = [np.count_nonzero(batch > 0) for batch in batches]
    negatives = [np.count_nonzero(batch < 0) for batch in batches]
    votes = list(zip(positives, negatives, strict=True))
    taken = [positive > negative for positive, negative in votes]
    shares = [
        abs(positive - negative) / batch.size
        for (positive, negative), batch in zip(votes, batches, strict=True)
    ]
    quantities = {
        "negative_branch_rate": taken.count(True) / len(taken),
        "imbalance": sum(shares) / len(shares),
    }
    if len(taken) > 1:
        changes = [before != after for before, after in pairwise(taken)]
        quantities["branch_change_rate"] = changes.count(True) / len(changes)
    return quantities


class Spy:
    """Keeps what enters every activation layer in training and leaves it in evaluation."""

    def __init__(self, network: nn.Module) -> None:
        self.entered: dict[str, list[Array]] = defaultdict(list)
        self.left: dict[str, list[Array]] = defaultdict(list)
        for name, module in network.named_modules():
            if name.rpartition(".")[2] in {"act", "act1", "act2"}:
                module.register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            kept, into = (inputs[0], self.entered) if module.training else (output, self.left)
            into[name].append(kept.detach().float().numpy().copy())

        return keep

    def expected(self, votes: bool) -> Probes:
        """Return the probes of the epoch that was seen, and forget it."""
        seen = {
            # What comes after the evaluation measures batches of other sizes.
            name: activity(batches[:EVALUATION_BATCHES])
            | (branches(self.entered[name]) if votes else {})
            for name, batches in self.left.items()
        }
        self.entered.clear()
        self.left.clear()
        return seen


def assert_close(got: Probes, expected: Probes) -> None:
    assert list(got) == list(expected)
    for layer, quantities in expected.items():
        assert got[layer] == pytest.approx(quantities, rel=1e-12, abs=1e-15), layer


CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("vgg16_bn", "adarelu", {}),
    ("vgg16_bn", "relu", {"precision": "bf16"}),
    ("vgg16_bn", RUNNING, {"channels_last": False}),
    ("vgg16", "adarelu", {"precision": "bf16", "channels_last": False}),
    ("resnet18", "adarelu", {"precision": "bf16"}),
    ("resnet18", "relu", {"channels_last": False}),
    ("resnet18", "prelu", {}),
    ("vgg16_bn", "tanh", {}),
    ("vgg16_bn", OWN, {}),
]


@pytest.mark.parametrize(("network", "activation", "training"), CASES)
def test_probes_are_what_a_plain_loop_counts(
    tmp_path: Path, network: str, activation: Any, training: dict[str, Any]
) -> None:
    trial = begin(trial_settings(network, activation, **training), tmp_path)
    votes = activation in ("adarelu", RUNNING)
    spy = Spy(trial.network)
    for record in trial.train(never, one_by_one=True):
        assert_close(record.probes, spy.expected(votes))
        # In the order of the network, and nothing is left behind.
        assert list(record.probes) == list(activation_layers(trial.network))
        assert all(
            set(seen) == ACTIVITY | (BRANCHES if votes else set())
            for seen in record.probes.values()
        )
    first = trial.history.epochs[0].probes
    assert len(first) == (17 if network == "resnet18" else 13)
    dead = [seen["dead_fraction"] for seen in first.values()]
    sparsity = [seen["sparsity"] for seen in first.values()]
    if activation in ("prelu", "tanh"):
        assert not any(dead + sparsity)
    else:
        assert any(0 < share < 1 for share in dead)
        assert any(0 < share < 1 for share in sparsity)


def test_one_batch_has_no_change_of_branch(tmp_path: Path) -> None:
    trial = begin(trial_settings(train_limit=24, epochs=1), tmp_path)
    spy = Spy(trial.network)
    [record] = trial.train(never)
    assert_close(record.probes, spy.expected(votes=True))
    for seen in record.probes.values():
        assert set(seen) == ACTIVITY | BRANCHES - {"branch_change_rate"}


@pytest.mark.parametrize("activation", ["adarelu", RUNNING, "relu"])
def test_probes_change_nothing(tmp_path: Path, activation: Any) -> None:
    trials = {
        probes: train(trial_settings("resnet18", activation, probes=probes), tmp_path / str(probes))
        for probes in (True, False)
    }
    assert fingerprint(trials[True]) == fingerprint(trials[False])
    assert all(record.probes for record in trials[True].history.epochs)
    assert not any(record.probes for record in trials[False].history.epochs)


@pytest.mark.parametrize("activation", ["adarelu", RUNNING])
def test_an_interrupted_trial_has_the_same_probes(tmp_path: Path, activation: Any) -> None:
    settings = trial_settings("vgg16_bn", activation)
    undisturbed = train(settings, tmp_path / "undisturbed")
    disturbed = train(settings, tmp_path / "disturbed", [STEPS + 1, 2, STEPS + 2])
    assert fingerprint(disturbed) == fingerprint(undisturbed)
    expected, got = (
        [record.probes for record in trial.history.epochs] for trial in (undisturbed, disturbed)
    )
    assert got == expected
    assert all(expected)


def test_probes_of_a_validation_split(tmp_path: Path) -> None:
    trial = begin(trial_settings(validation_fraction=0.3, epochs=1), tmp_path)
    spy = Spy(trial.network)
    [record] = trial.train(never)  # on 39 images, measured on 17: one batch
    assert_close(record.probes, spy.expected(votes=True))


# A layer by itself


def laid_out(x: Tensor, order: list[int]) -> Tensor:
    """Return x with its axes in that order in memory: 0, 2, 3, 1 is channels_last."""
    inverse = [order.index(axis) for axis in range(x.dim())]
    return x.permute(order).contiguous().permute(inverse)


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    units=hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_activity_of_any_shape_and_layout(
    data: st.DataObject, units: tuple[int, ...], sizes: list[int], dtype: torch.dtype
) -> None:
    values = st.sampled_from([0.0, -0.0, 0.0, 1.0, -2.0, 1e-30, float("inf"), float("nan")])
    batches = [
        np.asarray(data.draw(hnp.arrays(np.float32, (size, *units), elements=values)))
        for size in sizes
    ]
    layer = nn.Identity()
    probes = LayerProbes({"layer": layer})
    with probes.evaluation():
        for batch in batches:
            order = data.draw(st.permutations(range(batch.ndim)))
            layer(laid_out(torch.from_numpy(batch).to(dtype), order))
    assert probes.read() == {"layer": pytest.approx(activity(batches), rel=1e-12, abs=1e-15)}


class Places(nn.Module):
    """One activation in three places: outputs of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x[:, :3])
        z: Tensor = self.act(-x[:, :3]) + y
        return z + self.act(x.sum(1, keepdim=True))


def test_an_activation_in_several_places_is_one_layer() -> None:
    network = Places()
    probes = LayerProbes({"act": network.act})
    # Unit 0 is active in the first place only, unit 1 in the second only, unit 2 never. The sum is
    # never positive.
    images = torch.tensor([[1.0, -2.0, 0.0, -9.0], [0.0, -1.0, 0.0, 0.0]])
    with probes.evaluation():
        network(images)
    assert probes.read() == {"act": {"dead_fraction": 2 / 4, "sparsity": 5 / 6}}


def test_nothing_is_seen_outside_the_contexts() -> None:
    layers = {"a": AdaReLU(), "b": nn.ReLU()}
    network = nn.Sequential(*layers.values())
    probes = LayerProbes(layers)
    x = torch.tensor([[1.0, 2.0, -1.0]])
    network(x)
    assert probes.read() == {}
    with probes.training(1):
        network.train()(x)
        probes.after_batch()
    network(x)
    with probes.evaluation():
        network.eval()(x)
    network(x)
    seen = probes.read()
    assert seen["a"]["negative_branch_rate"] == 1
    assert seen["a"]["imbalance"] == pytest.approx(1 / 3)
    assert seen["b"] == {"dead_fraction": 1.0, "sparsity": 1.0}
    assert probes.read() == {}


@pytest.mark.parametrize("context", [lambda p: p.training(1), LayerProbes.evaluation])
def test_what_raises_leaves_nothing_behind(
    context: Callable[[LayerProbes], AbstractContextManager[None]],
) -> None:
    layer = AdaReLU()
    before = copy.copy(vars(layer))
    hooks = len(layer._forward_hooks)
    probes = LayerProbes({"layer": layer})

    def fail() -> None:
        with context(probes):
            layer(torch.ones(2, 3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert layer.recorded is None
    assert vars(layer).keys() == before.keys()
    assert len(layer._forward_hooks) == hooks


@contextmanager
def no_synchronization() -> Iterator[None]:
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(previous)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_watching_does_not_wait_for_the_device() -> None:
    seen = []
    for device in ("cpu", "cuda"):
        layer = AdaReLU()
        probes = LayerProbes({"layer": layer})
        x = torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(device)
        with no_synchronization():
            with probes.training(4):
                for batch in x.split(7):
                    layer.train()(batch)
                    probes.after_batch()
            with probes.evaluation():
                for batch in x.split(7):
                    layer.eval()(batch)
        seen.append(probes.read())
    assert seen[0] == seen[1]
