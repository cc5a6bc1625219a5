"""Builds activation modules from their components."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from adarelu_sweep.activations.layers import mark
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component


def activation_factory(component: Component, seed: int = 0) -> Callable[[], nn.Module]:
    """Return a function that builds a fresh activation module at every call.

    What the n-th call draws from torch's CPU generator follows from ``seed`` and n alone, and the
    generator is left as it was: an activation that draws does not shift what the network draws.

    Raises ValueError for a name that the registry does not know; the function raises TypeError if
    what it built is no module.
    """
    build = partial(ACTIVATIONS.load(component), **component.arguments)
    seeds = torch.Generator().manual_seed(seed)

    def fresh() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed(seeds))
            built = build()
        if not isinstance(built, nn.Module):
            raise TypeError(f"{component.name} built a {type(built).__name__}, not an nn.Module")
        return mark(built)

    return fresh


def draw_seed(generator: torch.Generator) -> int:
    """Draw the seed of another generator."""
    return int(torch.randint(2**63 - 1, (), generator=generator))
