"""The registered activations: what they compute, their arguments, their labels."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from adarelu_sweep.activations.convrelu import ConvReLU
from adarelu_sweep.activations.factory import activation_factory
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component

FORMULAS = {
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "adarelu": lambda x: min(x, 0),  # POINTS has more positive than negative values
    "convrelu": lambda x: max(x, 0),
}
POINTS = [-3.0, -0.5, 0.0, 0.25, 1.0, 4.0]


def build(given: Any) -> nn.Module:
    return activation_factory(ACTIVATIONS.resolve(given))()


def test_every_entry_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(ACTIVATIONS.names())


@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_every_entry_computes_its_formula(name: str) -> None:
    module = build(name)
    assert isinstance(module, nn.Module)
    output = module(torch.tensor(POINTS))
    torch.testing.assert_close(output, torch.tensor([float(FORMULAS[name](x)) for x in POINTS]))


@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_every_call_builds_a_fresh_module(name: str) -> None:
    factory = activation_factory(ACTIVATIONS.resolve(name))
    first, second = factory(), factory()
    assert first is not second
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


@pytest.mark.parametrize(
    ("given", "attribute", "value", "label"),
    [
        ({"name": "leaky_relu", "negative_slope": 0.2}, "negative_slope", 0.2, "negative_slope"),
        ({"name": "prelu", "init": 0.125}, "weight", 0.125, "init"),
        ({"name": "elu", "alpha": 0.5}, "alpha", 0.5, "alpha"),
        ({"name": "convrelu", "theta": -0.5}, "theta", -0.5, "theta"),
    ],
)
def test_arguments_arrive(given: Any, attribute: str, value: float, label: str) -> None:
    arrived = getattr(build(given), attribute)
    assert (arrived.item() if isinstance(arrived, torch.Tensor) else arrived) == value
    assert ACTIVATIONS.resolve(given).label == f"{given['name']}({label}={value})"


@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_defaults_are_not_in_the_label(name: str) -> None:
    component = ACTIVATIONS.resolve(name)
    assert component.label == name
    assert ACTIVATIONS.resolve(component.flattened()) == component


def test_unknown_names_and_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'adarelu'"):
        build("adarelo")
    with pytest.raises(ValueError, match="theta"):
        build({"name": "convrelu", "thetta": 1.0})
    with pytest.raises(ValueError, match="nothing"):
        activation_factory(Component(name="nothing", label="nothing"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_convrelu(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 3.0, math.nan], dtype=dtype)
    for theta in (-1.0, 0.0, 1.5):
        expected = [v if math.isnan(v) else max(v, theta) for v in x.tolist()]
        wanted = torch.tensor(expected, dtype=dtype)
        torch.testing.assert_close(ConvReLU(theta)(x), wanted, rtol=0, atol=0, equal_nan=True)
    assert repr(ConvReLU(0.5)) == "ConvReLU(theta=0.5)"
