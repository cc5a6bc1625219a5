"""How large networks are as they are kept: ``python -m THIS_MODULE``, a list of ``Part`` on stdin.

Networks are built on torch's meta device, which has shapes and no memory. The process answers on
stdout, as JSON, with a ``Size`` for each network.
"""

import os
import sys

import torch
from pydantic import BaseModel, TypeAdapter
from torch import nn

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.processes import search_current_folder_last


class Part(BaseModel):
    """A network as an arm has it."""

    network: Component
    activation: Component
    channels: int
    classes: int


class Size(BaseModel):
    """Bytes."""

    weights: int
    """Of all that is kept of a network."""
    trained: int
    """Of the part of it that an optimizer changes."""


def measure(part: Part) -> Size:
    """Return the size of a network; raises whatever a user's own part raises."""
    network = _shapes(part)
    return Size(
        weights=sum(tensor.nbytes for tensor in network.state_dict().values()),
        trained=sum(p.nbytes for p in network.parameters() if p.requires_grad),
    )


_PARTS = TypeAdapter(list[Part])
_SIZES = TypeAdapter(list[Size])


def _shapes(part: Part) -> nn.Module:
    """Build a network for its shapes' sake: on the meta device, unless a part needs a real one."""
    constructor, activation = NETWORKS.load(part.network), ACTIVATIONS.load(part.activation)
    try:
        with torch.device("meta"):
            built: nn.Module = constructor(
                lambda: activation(**part.activation.arguments),
                part.channels,
                part.classes,
                **part.network.arguments,
            )
    except Exception:
        built = build_network(
            part.network, part.activation, part.channels, part.classes, torch.Generator()
        )
    return built


def main() -> None:
    """Measure the parts that stand on standard input."""
    search_current_folder_last()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the parts print is no answer
    with answer:
        parts = _PARTS.validate_json(sys.stdin.buffer.read())
        answer.write(_SIZES.dump_json([measure(part) for part in parts]))


if __name__ == "__main__":
    main()
