"""A trial's checkpoint: weights, optimizer state and history in one sealed safetensors file.

Learning rate and random streams follow from the epoch (see ``schedule`` and ``streams``), so the
history's length is all the state that they have. Nothing is unpickled.

While a trial trains, its folder holds the newest checkpoint and the one before. A finished trial's
holds the history alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from adarelu_sweep.storing.places import Place, discard, move, write_whole
from adarelu_sweep.storing.waiting import awaited
from adarelu_sweep.training.history import CHECKPOINT, DAMAGED, HISTORY, PREVIOUS, History
from adarelu_sweep.training.sealed import DamagedError, read_whole
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.snapshot import Snapshot
from adarelu_sweep.training.stopping import StopRequestedError
from adarelu_sweep.wording import count

_NETWORK = "network/"
_OPTIMIZER = "optimizer/"


class Checkpoint:
    """What a trial goes on from, as it is now: to be written while it trains on."""

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, history: History
    ) -> None:
        tensors = {_NETWORK + name: value for name, value in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"{_OPTIMIZER}{index}/{name}"] = torch.as_tensor(value)
        self._state = Snapshot(tensors)
        self._history = history.model_copy(update={"epochs": list(history.epochs)})

    def write(self, folder: Place) -> None:
        """Write it whole or not at all, and keep the one before."""
        content = self._state.packed({HISTORY: self._history.model_dump_json()})
        write_whole(folder / CHECKPOINT, *content, before=PREVIOUS)


def save_outcome(folder: Place, history: History) -> None:
    """Write the history of a trial that has its outcome; no weights are needed any more."""
    content = Snapshot({}).packed({HISTORY: history.model_dump_json()})
    write_whole(folder / CHECKPOINT, *content)
    _clear(folder)


def load_checkpoint(
    folder: Place,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrialSettings,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[History, list[str]]:
    """Restore network and optimizer in place from the newest whole checkpoint.

    Returns the history, empty if there is none, and what is to be told: a damaged checkpoint is put
    out of the way, and the one before is used, or none. A trial with an outcome restores nothing.

    ``stop_requested`` is asked while a store is waited for, as a sign of life; StopRequestedError
    follows while nothing is changed yet. Nothing is before all is read: where the store fails in
    between, the next attempt finds, and tells, the same.
    """

    def check_stop() -> None:
        if stop_requested():
            raise StopRequestedError

    history, damaged = History(), dict[str, str]()
    for name in (CHECKPOINT, PREVIOUS):
        try:
            stored = awaited(folder, partial(read_whole, folder / name, HISTORY), check_stop)
            history = _restore(*stored, network, optimizer, settings)
            break
        except FileNotFoundError:
            continue
        except DamagedError as error:
            damaged[name] = str(error)
    if damaged or history.outcome:
        tidy = partial(_tidy, folder, damaged, is_finished=history.outcome is not None)
        awaited(folder, tidy, stop_requested)
    return history, _notes(damaged, history)


def _tidy(folder: Place, damaged: Iterable[str], *, is_finished: bool) -> None:
    """Put damaged checkpoints out of the way, the newest last, which is the one that is kept."""
    for name in reversed(list(damaged)):
        move(folder / name, DAMAGED)
    if is_finished:
        _clear(folder)  # a kill may have come before it was done


def _notes(damaged: Mapping[str, str], history: History) -> list[str]:
    troubles = [f"{name} is damaged ({what})" for name, what in damaged.items()]
    if history.epochs:
        done = count(len(history.epochs), "epoch")
        return [f"{trouble}: back to the one before, {done}" for trouble in troubles]
    return [f"{' and '.join(troubles)}: training starts from the beginning"] if troubles else []


def unpacked(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file; raise DamagedError if they cannot be read."""
    try:
        return load(content)
    # Only where no checksum was there to notice it before. Not RuntimeError: memory may run out.
    except (SafetensorError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise DamagedError("its tensors cannot be read") from error


def _restore(
    text: str,
    content: bytes,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrialSettings,
) -> History:
    """Restore all of what a file holds, its history as text, or nothing with DamagedError."""
    history = History.parse(text)
    _check_history(history, settings)
    if history.outcome is None:
        tensors = unpacked(content)
        weights = {
            key.removeprefix(_NETWORK): tensor
            for key, tensor in tensors.items()
            if key.startswith(_NETWORK)
        }
        if _forms(weights) != _forms(network.state_dict()):
            raise DamagedError("its weights are those of another network")
        states = _states(tensors, optimizer)
        network.load_state_dict(weights)
        for parameter, state in states.items():
            held = optimizer.state[parameter]
            for name, tensor in state.items():
                if name in held:  # where captured steps look for it
                    held[name].copy_(tensor)
                else:
                    held[name] = _like(parameter, tensor)
    return history


def _check_history(history: History, settings: TrialSettings) -> None:
    done, wanted = len(history.epochs), settings.training.epochs
    result = {f"{settings.measured_on}/{quantity}" for quantity in ("loss", "accuracy")}
    fits = 0 < done <= wanted and (history.outcome is not None or done < wanted)
    if not fits or any(result - record.metrics.keys() for record in history.epochs):
        raise DamagedError("its history is that of another trial")


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _states(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[Tensor, dict[str, Tensor]]:
    """Return what the optimizer kept of each parameter."""
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = {str(index): parameter for index, parameter in enumerate(ordered)}
    states: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        if not key.startswith(_OPTIMIZER):
            continue
        index, _, name = key.removeprefix(_OPTIMIZER).partition("/")
        parameter = parameters.get(index)
        if parameter is None or not _fits(tensor, parameter):
            raise DamagedError("its optimizer is that of another network")
        states[parameter][name] = tensor
    if len({frozenset(state) for state in states.values()}) > 1:
        raise DamagedError("its optimizer lacks a part")
    return states


def _fits(stored: Tensor, parameter: Tensor) -> bool:
    """Return whether a tensor may be part of what an optimizer keeps of a parameter."""
    if not stored.shape:  # a step count, in a type of its own
        return True
    return (stored.shape, stored.dtype) == (parameter.shape, parameter.dtype)


def _like(parameter: Tensor, stored: Tensor) -> Tensor:
    """Place a state tensor as the optimizer would have made it: device and memory layout."""
    if stored.shape != parameter.shape:
        return stored.to(parameter.device)  # a step count
    return torch.empty_like(parameter, dtype=stored.dtype).copy_(stored)


def _clear(folder: Place) -> None:
    """Remove what a finished trial does not need."""
    for name in (PREVIOUS, DAMAGED):
        discard(folder / name)
