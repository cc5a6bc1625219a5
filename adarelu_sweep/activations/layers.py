"""Which modules of a network are its activations, and which are the network's own."""

from collections.abc import Iterator

from torch import nn

_MARK = "_adarelu_sweep_activation"  # an attribute, so that a copy of a module keeps it


def mark(module: nn.Module) -> nn.Module:
    """Make a module known as an activation, and return it."""
    setattr(module, _MARK, True)
    return module


def activation_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the activation modules of a built network by their paths, in order of registration.

    What lies inside an activation module belongs to it and is not listed. A module that stands in
    several places is listed once, under its first path.
    """
    layers: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for path, module in network.named_modules():
        if getattr(module, _MARK, False) and module not in inside:
            layers[path] = module
            inside.update(module.modules())
    return layers


def own_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a network, paths first, that are neither activations nor inside one."""
    foreign = {m for layer in activation_layers(network).values() for m in layer.modules()}
    for path, module in network.named_modules():
        if module not in foreign:
            yield path, module
