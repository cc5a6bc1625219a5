"""Doing the same work on batch after batch: as it is written, or captured as a CUDA graph.

At batch 32 a GPU is done with a small network's kernels before Python has launched the next ones.
A graph holds the kernels of a whole step and is launched at once.
"""

import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import TypeVar

import torch
from torch import Tensor

_WARM_UP = 3  # calls before capture, in which cuDNN and the optimizer make what they keep
_WINDOW = 32  # launches between two marks; at most two windows are under way

Returned = TypeVar("Returned")
Replay = Callable[[], None]
Capture = Callable[[Callable[[Tensor], None], Tensor], Replay]
"""Takes work and the indices that it will read; returns what does the work again. Nothing is
computed by that. Raises RuntimeError if the work cannot be captured."""


def finish(turns: Generator[object, None, Returned]) -> Returned:
    """Take all the turns of work that has nobody beside it, and return its result."""
    while True:
        try:
            next(turns)
        except StopIteration as stopped:
            result: Returned = stopped.value
            return result


class Repeated:
    """Work on a batch of indices, which reads and writes tensors that stay where they are.

    The first calls for a batch size are done as they are written, and are as good as the later
    ones: nothing has to be undone after a capture. On a CPU, and where capture fails because the
    work waits for the device (a user's own network may), all of them are.

    Whose work it is owns this, so the work comes with every call: kept here, it would keep its
    owner, and a network that nobody uses any more would stay in memory.

    Args:
        device: Where it runs.
        capture: Whether it may be captured.
    """

    def __init__(self, device: torch.device, *, capture: bool) -> None:
        self._capture = capturing(device) if capture else None
        self._calls: Counter[int] = Counter()
        self._captured: dict[int, tuple[Replay, Tensor]] = {}
        self._pace = _Pace(device)

    def __call__(
        self, work: Callable[[Tensor], None], indices: Tensor, *, as_it_is: bool = False
    ) -> None:
        """Do the work on a batch.

        Args:
            work: The same at every call. Takes indices (int64, B, on the device). For capture it
                must not wait for the device, nor depend on anything but the indices and tensors
                that it finds.
            indices: What it takes.
            as_it_is: Do not use what was captured.
        """
        size = len(indices)
        self._calls[size] += 1
        early = as_it_is or self._calls[size] <= _WARM_UP
        if early or not (size in self._captured or self._take_up(work, indices)):
            work(indices)
            return
        replay, read = self._captured[size]
        read.copy_(indices)
        replay()
        self._pace.keep()

    def _take_up(self, work: Callable[[Tensor], None], indices: Tensor) -> bool:
        """Capture the work for batches of this size; return whether that was possible."""
        if self._capture is None:
            return False
        read = indices.clone()
        try:
            replay = self._capture(work, read)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._capture = None
            said = " ".join(str(error).split())
            warnings.warn(f"it trains slower, because it cannot be captured: {said}", stacklevel=2)
            return False
        self._captured[len(read)] = (replay, read)
        return True


def capturing(device: torch.device) -> Capture | None:
    """Return how work is captured on a device, or None if it is not."""
    return _cuda_graph if device.type == "cuda" else None


def _cuda_graph(work: Callable[[Tensor], None], read: Tensor) -> Replay:
    graph = torch.cuda.CUDAGraph()
    # Captured on the stream on which the first calls ran, because autograd accumulates gradients on
    # the stream where it first did. Other threads may go on meanwhile.
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work(read)
    return graph.replay


class _Pace:
    """Keeps the launches from running so far ahead of the device that a stop would come late."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._launches = 0
        self._marks: deque[torch.cuda.Event] = deque()

    def keep(self) -> None:
        """Note a launch, and wait where too many are under way."""
        self._launches += 1
        if not self._on_gpu or self._launches % _WINDOW:
            return
        mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
        mark.record()
        self._marks.append(mark)
        if len(self._marks) > 2:
            self._marks.popleft().synchronize()
