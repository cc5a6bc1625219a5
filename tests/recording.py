"""What a CUDA graph does, on the CPU: the operations of a piece of work, done again and again.

Like a graph it holds operations and the tensors that they read and wrote, and nothing of Python:
whatever the host would have decided or computed anew stays as it was when it was recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BATCH_NORM = torch.ops.aten.native_batch_norm.default
_WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Recording(TorchDispatchMode):
    """Notes the operations in its context, and how the tensors were that they change."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WAITING:
            raise RuntimeError(f"{func} waits for the device")
        for tensor in _changed(func, args, kwargs or {}):
            self._before.setdefault(_storage(tensor), (tensor, tensor.clone()))
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Set the tensors back to what they were: capturing computes nothing."""
        for tensor, before in self._before.values():
            tensor.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Do the operations again, on the same tensors."""
        for func, args, kwargs, result in self._operations:
            again = func(*args, **kwargs)
            given = {_storage(tensor) for tensor in _tensors((args, kwargs))}
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if _storage(new) not in given:
                    old.copy_(new)


def record(work: Callable[[Tensor], None], read: Tensor) -> Callable[[], None]:
    """Capture work as ``repeating`` wants it."""
    with Recording() as recording:
        work(read)
    recording.undo()
    return recording.replay


def _changed(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that an operation is going to change in place."""
    if func is _BATCH_NORM:  # does not say so
        return _tensors(args[3:5])
    changed = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            changed += _tensors(given)
    return changed


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
