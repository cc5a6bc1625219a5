"""Builds networks from their components."""

import torch
from torch import nn

from adarelu_sweep.activations.factory import activation_factory, draw_seed
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
    nor on PyTorch's global generator, which is left as it was. What a constructor draws from that
    one, the network's or an activation's, has a seed that comes from ``generator``.

    Raises ValueError for a name that the registries do not know, and TypeError if what was built
    is no module.
    """
    constructor = NETWORKS.load(network)
    seeds = generator.clone_state()  # a copy: `initialize` draws what it always drew
    activations = activation_factory(activation, draw_seed(seeds))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_seed(seeds))
        built = constructor(activations, in_channels, num_classes, **network.arguments)
    if not isinstance(built, nn.Module):
        raise TypeError(f"{network.name} built a {type(built).__name__}, not an nn.Module")
    if network.name in NETWORKS:  # a user's own keeps what its constructor drew
        initialize(built, generator)
    return built
