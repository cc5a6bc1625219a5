"""Random streams, one per purpose, derived from a trial's seed.

Purposes never share a stream, so that trials that differ only in the activation start from the same
weights and see the same batches. An epoch's streams are derived from its number: a resumed trial
has no random state to restore.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from adarelu_sweep.errors import UserError


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator for a purpose, such as ``(seed, "batch order", epoch)``.

    The generator's own seed is the first 8 bytes of a SHA-256 over both, so that neighbouring seeds
    and epochs have unrelated streams.
    """
    return torch.Generator().manual_seed(_stream_seed(seed, *purpose))


def batch_order(seed: int, epoch: int, images: int) -> Tensor:
    """Return the order in which an epoch sees the images: a permutation, int64, on the CPU."""
    return torch.randperm(images, generator=generator(seed, "batch order", epoch))


def validation_split(seed: int, images: int, fraction: float) -> Tensor:
    """Return which training images are held out: int64 indices in ascending order, on the CPU.

    Their number is the fraction of ``images``, rounded; at least 1, and 1 image is left at least.
    Raises UserError if there are not two images.
    """
    if images < 2:
        raise UserError("a validation split needs 2 training images: raise data.train_limit")
    count = min(max(round(fraction * images), 1), images - 1)
    order = torch.randperm(images, generator=generator(seed, "validation split"))
    return order[:count].sort().values


def seed_network_noise(seed: int, epoch: int) -> None:
    """Seed torch's global generators, which layers such as dropout draw from, for one epoch."""
    torch.manual_seed(_stream_seed(seed, "network noise", epoch))


class NetworkNoise:
    """Torch's global generators as one of several trials that take turns sees them."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Go on, in this context, where the turn before left the generators."""
        generators = [torch.default_generator]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
        for one, state in zip(generators, self._states, strict=False):
            one.set_state(state)
        try:
            yield
        finally:
            self._states = [one.get_state() for one in generators]


def digest(*draws: Tensor) -> str:
    """Return 16 hex digits that tell whether two trials drew the same."""
    hashed = hashlib.sha256()
    for drawn in draws:
        hashed.update(drawn.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def _stream_seed(seed: int, *purpose: object) -> int:
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
