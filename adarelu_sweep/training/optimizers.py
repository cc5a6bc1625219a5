"""Building an optimizer from its component."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter

from adarelu_sweep.components import Component
from adarelu_sweep.training.registry import OPTIMIZERS


def build_optimizer(component: Component, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that a component of ``OPTIMIZERS`` names, over the parameters."""
    arguments: dict[str, object] = dict(component.arguments)
    if "beta1" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    optimizer: torch.optim.Optimizer = OPTIMIZERS.load(component)(parameters, **arguments)
    return optimizer
