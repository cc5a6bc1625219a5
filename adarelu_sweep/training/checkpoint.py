"""A trial's checkpoint: weights, optimizer state and history in one safetensors file.

Learning rate and random streams follow from the epoch (see ``schedule`` and ``streams``), so the
history's length is all the state that they have. Nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from adarelu_sweep.files import write_atomically
from adarelu_sweep.training.history import CHECKPOINT, MODEL, History

_NETWORK = "network/"
_OPTIMIZER = "optimizer/"


def save_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, history: History
) -> None:
    """Write the checkpoint whole or not at all."""
    tensors = {_NETWORK + name: value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"{_OPTIMIZER}{index}/{name}"] = torch.as_tensor(value)
    _write(folder / CHECKPOINT, tensors, {"history": history.model_dump_json()})


def load_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Restore network and optimizer in place and return the history; empty if there is none."""
    history = History.read(folder)
    if not history.epochs:
        return history
    tensors = load_file(folder / CHECKPOINT)
    network.load_state_dict(
        {key.removeprefix(_NETWORK): t for key, t in tensors.items() if key.startswith(_NETWORK)}
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in tensors.items():
        if key.startswith(_OPTIMIZER):
            index, name = key.removeprefix(_OPTIMIZER).split("/")
            parameter = parameters[int(index)]
            state: dict[str, Any] = optimizer.state[parameter]
            state[name] = _like(parameter, tensor)
    return history


def save_model(folder: Path, network: nn.Module, metadata: dict[str, str]) -> None:
    """Write the weights alone, under their names in the network, with metadata of text."""
    _write(folder / MODEL, dict(network.state_dict()), metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # Copies, because safetensors takes no two names for one tensor, as a shared module has.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomically(path, save(plain, metadata))


def _like(parameter: Tensor, stored: Tensor) -> Tensor:
    """Place a state tensor as the optimizer would have made it: device and memory layout."""
    if stored.shape != parameter.shape:
        return stored  # a step count: on the CPU, as torch keeps it
    return torch.empty_like(parameter, dtype=stored.dtype).copy_(stored)
