"""Builds activation modules from their components."""

from collections.abc import Callable
from functools import partial

from torch import nn

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component


def activation_factory(component: Component) -> Callable[[], nn.Module]:
    """Return a function that builds a fresh activation module at every call.

    Raises ValueError for a name that the registry does not know.
    """
    return partial(ACTIVATIONS.load(component), **component.arguments)
