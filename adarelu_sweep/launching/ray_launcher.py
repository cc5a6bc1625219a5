"""Workers on the nodes of a Ray cluster: an actor for each, placed by Ray."""

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread, Timer
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adarelu_sweep.launching.launcher import (
    Gone,
    Launcher,
    Offer,
    Placed,
    Report,
    Said,
    Slot,
    Worker,
)
from adarelu_sweep.launching.messages import FromWorker, Quit, Ready, ToWorker
from adarelu_sweep.launching.nodes import ClusterSlots
from adarelu_sweep.launching.ray_cluster import NAMESPACE, RayCluster
from adarelu_sweep.launching.ray_host import Host, Left

# Where Python finds a user's modules. All else a worker has from its node.
_HANDED_ON = ("PYTHONPATH",)

_LISTENING = "listening"  # a thread of the actor's own, or nothing could be said to it meanwhile
_GLANCE = 2.0  # seconds between two looks at the cluster's nodes
_AGAIN = 1.0  # seconds until an actor that was not reached is tried again
_PATIENCE = 5.0  # seconds that workers have to quit, all together, before they are killed
_KILL_PATIENCE = 3.0  # seconds that an actor has to end its worker before it is ended itself


class RayWorker(Worker):
    """A worker on some node: messages by calls of its actor, which is asked for what it says."""

    def __init__(self, slot: Slot, report: Report, actor: Any, launcher: "RayLauncher") -> None:
        self.slot = slot
        self.placed = False
        self._report = report
        self._actor = actor
        self._launcher = launcher
        self._node = slot.node
        self._received = 0
        self._may_go = False
        """Whether it was told to go before it had a place."""
        self._calling = Lock()
        self._over = False
        self._attendant = Thread(target=self._attend, name=f"worker-{slot.index}", daemon=True)
        self._attendant.start()

    def send(self, message: ToWorker) -> None:  # noqa: D102
        if isinstance(message, Quit) and not self.placed:  # it may wait for a place for ever
            self._may_go = True
            self._end_actor()
        else:
            self._call("send", message)

    def kill(self) -> None:  # noqa: D102
        if not self.placed:
            self._end_actor()
            return
        self._call("kill")
        last = Timer(_KILL_PATIENCE, self._end_actor)
        last.daemon = True
        last.start()

    def join(self, timeout: float) -> None:
        """Wait until it is gone, and kill it after ``timeout`` seconds."""
        self._attendant.join(timeout)
        if self._attendant.is_alive():
            self.kill()
            self._attendant.join(2 * _KILL_PATIENCE)  # a node that is not reached is let go

    @property
    def is_gone(self) -> bool:
        """Whether its last event was reported."""
        return not self._attendant.is_alive()

    def _call(self, method: str, *arguments: Any) -> None:
        """Call the actor and wait for nothing: of one that is gone, the attendant hears.

        Not once it is over: Ray would start a cluster anew, were it to end meanwhile.
        """
        with self._calling, suppress(RayError):
            if not self._over:
                getattr(self._actor, method).remote(*arguments)

    def _end_actor(self) -> None:
        """End the actor, and its worker with it."""
        with self._calling, suppress(RayError, ValueError):
            if not self._over:
                ray.kill(self._actor)

    def _attend(self) -> None:
        """Report what comes, from the place that it gets to its end."""
        try:
            self._node = ray.get(self._actor.node.remote())
            self._has_place()
            left = self._pass_on()
        except Exception as error:  # Ray's own, and others while it leaves the cluster
            if isinstance(error, RayActorError) and error.actor_init_failed:
                self._has_place()  # where it cannot run
            self._launcher.glance()  # a slot whose node is gone is to be gone before its worker
            left = Left(self._told(error), in_order=self._may_go)
        self._end_actor()
        with self._calling:
            self._over = True
        self._report(Gone(self, left.reason, left.in_order))

    def _has_place(self) -> None:
        self.placed = True
        self._report(Placed(self))

    def _pass_on(self) -> Left:
        """Report what the worker says, and return how it ended."""
        listen = self._actor.listen.options(concurrency_group=_LISTENING)
        while True:
            try:
                news: list[FromWorker | Left] = ray.get(listen.remote(self._received))
            except ActorUnavailableError:  # not dead: what was said is said again
                time.sleep(_AGAIN)
                continue
            for message in news:
                if isinstance(message, Left):
                    return message
                if isinstance(message, Ready) and self.slot.gpu is not None:
                    self.slot = replace(self.slot, model=message.device)
                self._report(Said(self, message))
            self._received += len(news)

    def _told(self, error: Exception) -> str:
        """Say in a few words why an actor is no more."""
        if self._may_go:
            return "was not needed any more"
        if isinstance(error, RayActorError) and error.actor_init_failed:
            return f"could not be started: {str(error).strip().splitlines()[-1]}"
        if self._node and not self._launcher.has_node(self._node):
            return f"was lost with its node ({self.slot.name})"
        return "was lost with its Ray actor"


class RayLauncher(Launcher):
    """Starts workers on a Ray cluster.

    Args:
        report: Takes the events.
        logs: Where the workers' output goes, a folder that all nodes share.
        uid: The study's. It tells whose workers they are: those that a dead supervisor of the study
            has left, in whichever home, are ended first.
        cluster: Where they run; it is left at the end.
        slots: Its slots, which are offered anew as nodes come and go.
        granted: Which credentials a worker gets of its node's environment.
        needs_home: Whether the nodes have to share the home.
    """

    offers = True

    def __init__(
        self,
        report: Report,
        logs: Path,
        uid: str,
        cluster: RayCluster,
        slots: ClusterSlots,
        granted: Sequence[str] = (),
        needs_home: bool = True,
    ) -> None:
        self._report = report
        self._logs = logs
        self._uid = uid
        self._cluster = cluster
        self._slots = slots
        self._granted = granted
        self._needs_home = needs_home
        self._workers: list[RayWorker] = []
        self._glancing = Lock()
        self._closed = Flag()
        self._nodes = cluster.nodes()
        self._offered = slots.current
        self._end_leftovers()
        self._watch = Thread(target=self._watch_nodes, name="nodes", daemon=True)
        self._watch.start()

    def start(self, slot: Slot) -> RayWorker:  # noqa: D102
        self._logs.mkdir(parents=True, exist_ok=True)
        placing: dict[str, Any] = {"num_cpus": slot.threads}
        if slot.gpu is not None:
            placing = {"num_cpus": 0, "num_gpus": self._slots.division.share or 1}
        if slot.node:
            placing["scheduling_strategy"] = NodeAffinitySchedulingStrategy(slot.node, soft=False)
        environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        log = self._logs / f"worker-{slot.index}.log"
        remote: Any = ray.remote  # its annotations do not know of these groups
        actor = (
            remote(concurrency_groups={_LISTENING: 1})(Host)
            .options(
                name=f"{self._prefix}{slot.index} {uuid.uuid4().hex[:8]}",
                namespace=NAMESPACE,
                max_restarts=0,  # a worker that is lost is the supervisor's to replace
                **placing,
            )
            .remote(
                slot,
                str(log.resolve()),
                str(Path.cwd()),
                environment,
                self._granted,
                self._needs_home,
            )
        )
        worker = RayWorker(slot, self._report, actor, self)
        self._workers = [worker, *(each for each in self._workers if not each.is_gone)]
        return worker

    def close(self) -> None:  # noqa: D102
        if self._closed.is_set():
            return
        self._closed.set()
        for worker in self._workers:
            worker.send(Quit())
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.join(timeout=max(0, deadline - time.monotonic()))
        self._workers.clear()
        self._watch.join()
        self._cluster.disconnect()

    def has_node(self, node: str) -> bool:
        """Return whether a node was there when the nodes were last looked at."""
        return node in {each.id for each in self._nodes}

    def glance(self) -> None:
        """Look at the cluster's nodes, and offer the slots if they have changed.

        Where the head is not reached, what there was is there.
        """
        with self._glancing, suppress(RayError):
            if self._closed.is_set():
                return
            self._nodes = self._cluster.nodes()
            slots = self._slots.update(self._nodes)
            if slots != self._offered:
                self._offered = slots
                self._report(Offer(slots))

    def _watch_nodes(self) -> None:
        while not self._closed.wait(_GLANCE):
            self.glance()

    @property
    def _prefix(self) -> str:
        """What the names of this study's actors begin with."""
        return f"{self._uid} "

    def _end_leftovers(self) -> None:
        """End the workers of a supervisor that died: Ray does so too, but nobody knows when."""
        deadline = time.monotonic() + _PATIENCE
        while left := self._leftovers():
            for name in left:
                with suppress(RayError, ValueError):  # gone meanwhile
                    ray.kill(ray.get_actor(name, NAMESPACE))
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)

    def _leftovers(self) -> list[str]:
        named: list[dict[str, str]] = list_named_actors(all_namespaces=True)
        ours = [each["name"] for each in named if each["namespace"] == NAMESPACE]
        return [name for name in ours if name.startswith(self._prefix)]
