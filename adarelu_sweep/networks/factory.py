"""Builds networks from their components."""

import torch
from torch import nn

from adarelu_sweep.activations.factory import activation_factory
from adarelu_sweep.components import Component
from adarelu_sweep.networks.initialization import initialize
from adarelu_sweep.networks.registry import NETWORKS


def build_network(
    network: Component,
    activation: Component,
    in_channels: int,
    num_classes: int,
    generator: torch.Generator,
) -> nn.Module:
    """Build a network on the CPU with initial weights drawn from ``generator``, a CPU one.

    The weights depend on the generator, the network and the shapes only: not on the activation,
    nor on PyTorch's global generator, which is left as it was.

    Raises ValueError for a name that the registries do not know.
    """
    constructor = NETWORKS.load(network)
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialization draws from it.
        built: nn.Module = constructor(
            activation_factory(activation), in_channels, num_classes, **network.arguments
        )
    initialize(built, generator)
    return built
