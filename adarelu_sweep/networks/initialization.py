"""Initial weights, the same whatever the activation is."""

import torch
from torch import nn

from adarelu_sweep.activations.layers import own_modules


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of a built-in network on the CPU from ``generator`` alone, in module order.

    - ``Conv2d``: He normal (He et al. 2015), standard deviation sqrt(2 / fan_out); bias 0.
    - ``BatchNorm2d``: weight 1, bias 0, running mean 0, running variance 1.
    - ``Linear``: uniform within +-1 / sqrt(fan_in), weight and bias, as PyTorch does.

    All other modules and parameters keep what their constructor gave them, and so does everything
    inside an activation, a convolution too: networks that differ in their activation only get the
    same weights.
    """
    for _, module in own_modules(network):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
