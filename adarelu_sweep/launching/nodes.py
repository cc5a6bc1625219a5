"""Dividing the nodes of a cluster into slots, as they come and go."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot

_ROUNDING = 1e-6  # three workers with a third of a GPU each fill it


@dataclass(frozen=True)
class Node:
    """What one node of a cluster has to give."""

    id: str
    name: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Division:
    """How nodes are divided: the same for all, so that trials are trained alike on each."""

    threads: int
    """CPU threads of a slot."""
    share: float | None = None
    """How much of a GPU a slot has; None for slots on the CPU."""
    most: int | None = None
    """How many slots there are to be in all."""

    @classmethod
    def of(
        cls,
        nodes: Sequence[Node],
        gpus: str | None,
        share: float,
        most: int | None,
        threads: int | None,
    ) -> "Division":
        """Return how nodes are best divided.

        Args:
            nodes: Those that are there now.
            gpus: ``all``, ``none``, or None for all that there are.
            share: How much of a GPU a slot is to have.
            most: How many slots there are to be in all; None for as many as the nodes have room
                for. On the CPU, then, as many as leave the smallest node undivided.
            threads: CPU threads of a slot where they are given already.

        Raises UserError for a request that is none of these, or that nothing can meet.
        """
        if gpus not in (None, "all", "none"):
            raise UserError(f"--gpus {gpus}: on a cluster Ray chooses the GPUs; give all or none")
        if not 0 < share <= 1:
            raise UserError(
                f"--gpus-per-worker {share:g}: give more than 0, and 1 at most: a trial has one GPU"
            )
        if most is not None and most < 1:
            raise UserError(f"--workers {most}: give 1 or more")
        with_gpus = [node for node in nodes if node.gpus >= 1]
        if gpus == "all" and not with_gpus and threads is None:
            raise UserError(
                "--gpus all: no node of the cluster has a GPU; leave --gpus out, or give none"
            )
        if gpus == "all" or (with_gpus and gpus is None):
            rates = [node.cpus / _per_node(node, share) for node in with_gpus]
            return cls(threads or max(1, int(min(rates, default=1))), share, most)
        with_cpus = [node.cpus for node in nodes if node.cpus >= 1]
        if threads is None and not with_cpus:
            raise UserError(
                "the cluster has no CPU to give: start nodes first, with 'ray start "
                "--address=HEAD:6379' on each"
            )
        return cls(threads or _threads(with_cpus, most), None, most)

    def slots_of(self, node: Node) -> int:
        """Return how many slots a node has room for."""
        if self.share is None:
            return int(node.cpus // self.threads)
        return _per_node(node, self.share)


class ClusterSlots:
    """The slots of a cluster. One keeps its index as long as its node is there; none comes again.

    A slot belongs to a node: what the nodes leave over cannot be put together, and a device that
    a trial is to have for itself is one that can be named. Of the GPUs of a node that are shared,
    Ray tells only afterwards who got which, so that these are one device.
    """

    def __init__(self, division: Division) -> None:
        self.division = division
        self._indices = count()
        self._slots: dict[tuple[str, int], Slot] = {}

    @property
    def current(self) -> list[Slot]:
        """The slots on the nodes as they were told last."""
        return list(self._slots.values())

    def update(self, nodes: Sequence[Node]) -> list[Slot]:
        """Return the slots on the nodes that are there now, those first that there were before."""
        there = {node.id: self.division.slots_of(node) for node in nodes}
        kept = {
            place: slot for place, slot in self._slots.items() if place[1] < there.get(place[0], 0)
        }
        # The first of every node, then the second: fewer slots than there is room for are spread.
        room = [(place, node) for node in nodes for place in range(there[node.id])]
        for place, node in sorted(room, key=lambda each: each[0]):
            if self.division.most is not None and len(kept) >= self.division.most:
                break
            if (node.id, place) not in kept:
                kept[node.id, place] = self._slot(node, place)
        self._slots = kept
        return self.current

    def _slot(self, node: Node, place: int) -> Slot:
        share, gpu = self.division.share, None
        if share is not None:
            gpu = f"{node.id}/{place}" if _per_gpu(share) == 1 else f"{node.id}/gpus"
        name = f"{node.name}, {'cpu' if gpu is None else 'GPU'}"
        return Slot(next(self._indices), self.division.threads, gpu, name, node=node.id)


def _per_gpu(share: float) -> int:
    return int(1 / share + _ROUNDING)


def _per_node(node: Node, share: float) -> int:
    return int(node.gpus) * _per_gpu(share)


def _threads(cpus: Sequence[float], most: int | None) -> int:
    """Return the most threads that so many slots can have; those of the smallest node if free."""
    if most is None:
        return int(min(cpus))
    for threads in range(int(max(cpus)), 1, -1):
        if sum(int(each // threads) for each in cpus) >= most:
            return threads
    return 1
