"""Where the workers of a study run: on this machine, or on a Ray cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Launcher, Report, Slot
from adarelu_sweep.launching.local import LocalLauncher

LauncherName = Literal["local", "ray"]

MakeLauncher = Callable[[Report, Path, str], Launcher]
"""Makes the launcher that reports there and leaves the workers' logs in that folder.

The third is the uid of the study, whose workers they are."""


@dataclass(frozen=True)
class Place:
    """The slots that there are, and what starts workers in them."""

    slots: list[Slot]
    threads: int
    """CPU threads of a slot."""
    launcher: MakeLauncher


def on_this_machine(slots: list[Slot], granted: Sequence[str] = ()) -> Place:
    """Return the place whose workers are processes of this machine.

    ``granted`` is which credentials they get: ``launching.local.environment``.
    """

    def launcher(report: Report, logs: Path, _uid: str) -> Launcher:
        return LocalLauncher(report, logs, granted)

    return Place(slots, slots[0].threads, launcher)


def on_ray(
    address: str | None,
    gpus: str | None,
    share: float,
    workers: int | None,
    threads: int | None,
    granted: Sequence[str] = (),
    needs_home: bool = True,
) -> Place:
    """Return the place whose workers are spread over a Ray cluster.

    Args:
        address: As ``RayCluster`` takes it.
        gpus: ``all``, ``none``, or None for all that there are.
        share: How much of a GPU a worker gets.
        workers: How many slots there are to be, at most.
        threads: CPU threads of a slot where they are given already.
        granted: Which credentials the workers get of their nodes' environments.
        needs_home: Whether the nodes have to share the home.

    Raises UserError for what the cluster cannot give, or where there is none.
    """
    from adarelu_sweep.launching.nodes import ClusterSlots, Division
    from adarelu_sweep.launching.ray_cluster import RayCluster

    cluster = RayCluster(address)
    try:
        nodes = cluster.nodes()
        slots = ClusterSlots(Division.of(nodes, gpus, share, workers, threads))
    except UserError:
        cluster.disconnect()
        raise
    from adarelu_sweep.launching.ray_launcher import RayLauncher

    launcher = partial(
        RayLauncher, cluster=cluster, slots=slots, granted=granted, needs_home=needs_home
    )
    return Place(slots.update(nodes), slots.division.threads, launcher)
