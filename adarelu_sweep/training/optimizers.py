"""Building an optimizer from its component."""

import torch
from torch import nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.components import Component
from adarelu_sweep.training.registry import OPTIMIZERS


def build_optimizer(component: Component, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a component of ``OPTIMIZERS`` names, over a network's parameters.

    Those of the activations, a PReLU's slope for instance, make a second group without weight
    decay, which would pull them towards another activation (He et al. 2015, section 2.1, and
    PyTorch's documentation of PReLU). A network without any has one group.
    """
    arguments: dict[str, object] = dict(component.arguments)
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    layers = activation_layers(network).values()
    exempt = {parameter for layer in layers for parameter in layer.parameters()}
    # Each in the network's order: checkpoints count the parameters through the groups.
    groups: list[dict[str, object]] = [
        {"params": [p for p in network.parameters() if p not in exempt]}
    ]
    if exempt:
        decayless = [p for p in network.parameters() if p in exempt]
        groups.append({"params": decayless, "weight_decay": 0.0})
    optimizer: torch.optim.Optimizer = OPTIMIZERS.load(component)(groups, **arguments)
    return optimizer
