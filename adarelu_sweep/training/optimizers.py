"""Building an optimizer from its component, and setting it back or on."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.components import Component
from adarelu_sweep.training.registry import OPTIMIZERS


def build_optimizer(component: Component, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a component of ``OPTIMIZERS`` names, over a network's parameters.

    Those of the activations, a PReLU's slope for instance, make a second group without weight
    decay, which would pull them towards another activation (He et al. 2015, section 2.1, and
    PyTorch's documentation of PReLU). A network without any has one group.

    On a GPU one kernel updates many parameters (``fused``, which on a CPU takes longer), and the
    learning rate is a tensor there: an update that is captured once reads the rate of each epoch.
    """
    arguments = arguments_of(component)
    layers = activation_layers(network).values()
    exempt = {parameter for layer in layers for parameter in layer.parameters()}
    # Each in the network's order: checkpoints count the parameters through the groups.
    groups: list[dict[str, object]] = [
        {"params": [p for p in network.parameters() if p not in exempt]}
    ]
    if exempt:
        decayless = [p for p in network.parameters() if p in exempt]
        groups.append({"params": decayless, "weight_decay": 0.0})
    made = OPTIMIZERS.load(component)
    if any(parameter.is_cuda for parameter in network.parameters()):
        arguments["lr"] = torch.tensor(arguments["lr"], dtype=torch.float32, device="cuda")
        arguments["fused"] = True
        if "capturable" in signature(made).parameters:
            arguments["capturable"] = True
    optimizer: torch.optim.Optimizer = made(groups, **arguments)
    return optimizer


def arguments_of(component: Component) -> dict[str, Any]:
    """Return what torch's constructor takes of a component of ``OPTIMIZERS``."""
    arguments: dict[str, Any] = dict(component.arguments)
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    return arguments


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Set what an optimizer keeps of its parameters to 0, in place, as before the first step."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
