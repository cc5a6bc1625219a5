"""Sweeps that compare activation functions, and the activations themselves.

``from adarelu_sweep import AdaReLU`` serves any network of your own; it imports torch and nothing
else that is heavy. Names are resolved lazily, so that ``import adarelu_sweep`` costs nothing: the
command line must answer ``--help`` without waiting for torch.
"""

from typing import TYPE_CHECKING, Any

from adarelu_sweep._version import __version__

if TYPE_CHECKING:
    from adarelu_sweep.activations.adarelu import AdaReLU, adarelu

__all__ = ["AdaReLU", "__version__", "adarelu"]


def __getattr__(name: str) -> Any:
    if name in {"AdaReLU", "adarelu"}:
        # importlib, because "from adarelu_sweep.activations import ..." would come back here.
        from importlib import import_module

        return getattr(import_module("adarelu_sweep.activations.adarelu"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
