"""The networks: shapes, sizes, names, and initial weights that no activation changes."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS

PLACES = {"vgg16": 13, "vgg16_bn": 13, "resnet18": 17}  # where an activation stands


def build(
    network: str,
    activation: str = "relu",
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    width: float = 1 / 16,
    seed: int = 0,
) -> nn.Module:
    return build_network(
        NETWORKS.resolve({"name": network, "width": width}),
        ACTIVATIONS.resolve(activation),
        in_channels,
        num_classes,
        torch.Generator().manual_seed(seed),
    )


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of all modules but the activations."""
    return {name: value for name, value in network.state_dict().items() if "act" not in name}


def images(batch: int, channels: int, size: int = 32) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


# Structure


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("width", [0.001, 0.1, 0.25])
def test_output_shapes(network: str, in_channels: int, width: float) -> None:
    built = build(network, in_channels=in_channels, num_classes=7, width=width)
    assert built(images(2, in_channels)).shape == (2, 7)
    assert built(images(2, in_channels, size=64)).shape == (2, 7)


# Convolution weights, by input and output channels: 9 for a 3 x 3 kernel times inputs x outputs.
VGG_CONVOLUTIONS = 9 * (
    (64 * 64)
    + (64 * 128 + 128 * 128)
    + (128 * 256 + 2 * 256 * 256)
    + (256 * 512 + 2 * 512 * 512)
    + (3 * 512 * 512)
)
VGG_CHANNELS = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
RESNET_CONVOLUTIONS = 9 * (
    (4 * 64 * 64)
    + (64 * 128 + 3 * 128 * 128)
    + (128 * 256 + 3 * 256 * 256)
    + (256 * 512 + 3 * 512 * 512)
) + (64 * 128 + 128 * 256 + 256 * 512)
RESNET_CHANNELS = 5 * 64 + 5 * 128 + 5 * 256 + 5 * 512  # the shortcuts have batch norm too


@pytest.mark.parametrize(("in_channels", "num_classes"), [(3, 10), (1, 10), (3, 100)])
def test_parameter_counts(in_channels: int, num_classes: int) -> None:
    first, head = 9 * in_channels * 64, 513 * num_classes
    expected = {
        "vgg16": first + VGG_CONVOLUTIONS + VGG_CHANNELS + head,
        "vgg16_bn": first + VGG_CONVOLUTIONS + 2 * VGG_CHANNELS + head,
        "resnet18": first + RESNET_CONVOLUTIONS + 2 * RESNET_CHANNELS + head,
    }
    if (in_channels, num_classes) == (3, 10):
        assert expected == {"vgg16": 14_719_818, "vgg16_bn": 14_724_042, "resnet18": 11_173_962}
    for network, count in expected.items():
        built = build(network, in_channels=in_channels, num_classes=num_classes, width=1.0)
        assert sum(parameter.numel() for parameter in built.parameters()) == count


def test_width_multiplies_the_channels() -> None:
    def channels(network: str, width: float) -> list[int]:
        modules = build(network, width=width).modules()
        return [module.out_channels for module in modules if isinstance(module, nn.Conv2d)]

    full = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert channels("vgg16", 0.25) == [c // 4 for c in full]
    assert channels("vgg16_bn", 0.3) == [round(0.3 * c) for c in full]
    assert channels("vgg16", 0.001) == [1] * 13
    assert max(channels("resnet18", 0.125)) == 64


@pytest.mark.parametrize("network", NETWORKS.names())
def test_every_place_has_its_own_activation(network: str) -> None:
    built = build(network, "adarelu")
    activations = [module for name, module in built.named_modules() if "act" in name]
    assert len({id(module) for module in activations}) == PLACES[network]
    calls: list[nn.Module] = []
    for module in activations:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    built(images(2, 3))
    assert calls == activations  # each once, in the order of the modules


def test_names() -> None:
    vgg = build("vgg16_bn")
    for index in (0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16):
        assert [name for name, _ in vgg.get_submodule(f"features.{index}").named_children()] == [
            "conv",
            "norm",
            "act",
        ]
    for index in (2, 5, 9, 13, 17):
        assert isinstance(vgg.get_submodule(f"features.{index}"), nn.MaxPool2d)
    names = dict(build("resnet18").named_modules())
    inner = ("conv1", "norm1", "act1", "conv2", "norm2", "act2")
    assert {"stem.conv", "stem.norm", "stem.act", "head"} <= set(names)
    assert {f"blocks.{index}.{name}" for index in range(8) for name in inner} <= set(names)
    assert [name for name in names if name.endswith("shortcut.conv")] == [
        f"blocks.{index}.shortcut.conv" for index in (2, 4, 6)
    ]


def test_no_convolution_bias_before_batch_norm() -> None:
    def biases(network: str) -> set[bool]:
        modules = build(network).modules()
        return {module.bias is not None for module in modules if isinstance(module, nn.Conv2d)}

    assert biases("vgg16") == {True}
    assert biases("vgg16_bn") == biases("resnet18") == {False}


# Initial weights


@pytest.mark.parametrize("network", NETWORKS.names())
def test_weights_are_the_same_for_every_activation(network: str) -> None:
    reference = weights(build(network))
    for name in ACTIVATIONS.names():
        other = weights(build(network, name))
        assert list(other) == list(reference)
        assert all(torch.equal(other[key], reference[key]) for key in reference)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_weights_do_not_depend_on_the_global_generator(network: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = build(network, "prelu").state_dict()
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        second = build(network, "prelu").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("network", NETWORKS.names())
def test_another_seed_gives_other_weights(network: str) -> None:
    first, second = build(network, seed=1), build(network, seed=2)
    for (name, module), twin in zip(first.named_modules(), second.modules(), strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not torch.equal(module.weight, twin.weight), name


@pytest.mark.parametrize("network", NETWORKS.names())
def test_distribution_of_the_weights(network: str) -> None:
    built = build(network, "prelu", num_classes=200, width=0.5)
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            deviation = module.weight.std().item() * math.sqrt(fan_out / 2)
            assert deviation == pytest.approx(1, abs=0.1)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for parameter in (module.weight, module.bias):
                assert 0.95 * bound < parameter.abs().max() <= bound
                assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
        elif isinstance(module, nn.PReLU):
            assert module.weight.item() == 0.25


# Training


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize("activation", ["prelu", "adarelu"])
def test_one_step_changes_every_parameter(network: str, activation: str) -> None:
    built = build(network, activation, in_channels=1, width=0.25)
    before = {name: parameter.detach().clone() for name, parameter in built.named_parameters()}
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(built(images(8, 1)), torch.arange(8))
    loss.backward()
    optimizer.step()
    unchanged = [name for name, value in built.named_parameters() if value.equal(before[name])]
    assert not unchanged


def test_a_narrow_network_survives_batches_of_odd_size() -> None:
    """oneDNN's strided 1 x 1 convolution corrupts memory here, so the process must be another."""
    script = """
import torch
from adarelu_sweep.networks.resnet import resnet18
torch.set_num_threads(2)
network = resnet18(torch.nn.ReLU, 1, 10, 0.125).to(memory_format=torch.channels_last)
for _ in range(20):
    images = torch.randn(31, 1, 32, 32).contiguous(memory_format=torch.channels_last)
    network(images).sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
