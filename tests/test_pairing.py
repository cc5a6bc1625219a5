"""Pairing: trials that differ only in the activation start from the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.networks.digest import weight_digest
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS


def build(network: str, activation: str | dict[str, Any], seed: int = 0) -> nn.Module:
    given = {"name": network} | ({"width": 1 / 16} if network in NETWORKS.names() else {})
    return build_network(
        NETWORKS.resolve(given),
        ACTIVATIONS.resolve(activation),
        3,
        10,
        torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("network", NETWORKS.names())
def test_swapping_the_activation_leaves_the_weights(network: str) -> None:
    digests = {weight_digest(build(network, name, seed=7)) for name in ACTIVATIONS.names()}
    assert len(digests) == 1
    assert weight_digest(build(network, "relu", seed=8)) not in digests


# Sums of |w| over networks of width 1/16 as version 0.1 drew them; any other stream differs by more
# than 1. Not digests: the last bits of a normal draw depend on the CPU's vector instructions.
DRAWN = {
    ("vgg16", 0): 4098.708677760602,
    ("vgg16", 1): 4120.097848087265,
    ("vgg16_bn", 0): 4626.708677760602,
    ("vgg16_bn", 1): 4648.097848087265,
    ("resnet18", 0): 4078.6915271800876,
    ("resnet18", 1): 4082.0329190672246,
}


@pytest.mark.parametrize(("network", "seed"), DRAWN)
def test_a_seed_keeps_its_weights_from_version_to_version(network: str, seed: int) -> None:
    state = build(network, "relu", seed).state_dict()
    total = sum(value.double().abs().sum().item() for value in state.values())
    assert total == pytest.approx(DRAWN[network, seed], rel=1e-7)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_the_digest_changes_with_any_weight_but_not_with_the_layout(network: str) -> None:
    built = build(network, "prelu")
    digest = weight_digest(built)
    assert weight_digest(built.to(memory_format=torch.channels_last)) == digest
    for module in activation_layers(built).values():
        nn.init.constant_(module.weight, 0.5)
    assert weight_digest(built) == digest
    tensors = [v for k, v in built.state_dict().items() if "act" not in k]
    for tensor in tensors:
        first = tensor.view(-1) if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1).view(-1)
        kept = first[0].item()
        first[0] += 1
        assert weight_digest(built) != digest
        first[0] = kept
    assert weight_digest(built) == digest


def test_the_layers_of_a_network_are_found_in_order() -> None:
    layers = activation_layers(build("resnet18", "adarelu"))
    blocks = [f"blocks.{index}.act{place}" for index in range(8) for place in (1, 2)]
    assert list(layers) == ["stem.act", *blocks]
    assert all(type(layer).__name__ == "AdaReLU" for layer in layers.values())


# A user's own


@pytest.mark.parametrize("network", [*NETWORKS.names(), "tests.own_parts:Normed"])
def test_an_activation_that_draws_and_holds_layers_shifts_nothing(network: str) -> None:
    plain, drawing = build(network, "relu"), build(network, "tests.own_parts:Drawing")
    more = {"name": "tests.own_parts:Drawing", "numbers": 50}
    assert weight_digest(plain) == weight_digest(drawing) == weight_digest(build(network, more))
    layers = activation_layers(drawing)
    assert list(layers) == list(activation_layers(plain))
    assert {type(layer).__name__ for layer in layers.values()} == {"Drawing"}


def test_an_activation_draws_from_the_seed_and_its_place() -> None:
    drawing = {"name": "tests.own_parts:Drawing"}
    first, again, other = (build("vgg16", drawing, seed) for seed in (3, 3, 4))
    drawn = [layer.noise for layer in activation_layers(first).values()]
    assert len({tuple(noise.tolist()) for noise in drawn}) == len(drawn)
    state, others = first.state_dict(), other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    inside = [name for name in state if name.endswith(("act.noise", "act.conv.weight"))]
    assert inside
    assert not any(torch.equal(state[name], others[name]) for name in inside)


def test_a_network_draws_from_the_seed_and_keeps_what_it_drew() -> None:
    state = torch.get_rng_state()
    networks = [build("tests.own_parts:Normed", name, seed=5) for name in ACTIVATIONS.names()]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({weight_digest(network) for network in networks}) == 1
    other = build("tests.own_parts:Normed", "relu", seed=6)
    for name in ("scale", "norm.weight"):
        drawn = networks[0].get_parameter(name)
        assert drawn.std() > 0.1  # not what `initialize` would have made of it
        assert not torch.equal(drawn, other.get_parameter(name))


def test_an_activation_in_several_places_is_one_layer() -> None:
    built = build("tests.own_parts:Normed", "prelu")
    assert list(activation_layers(built)) == ["act"]
    assert list(activation_layers(copy.deepcopy(built))) == ["act"]
