"""What runs on a node of a Ray cluster: an actor, which runs a worker process as on any machine.

The process of its own is what makes a worker safe to lose: code that exits or crashes, its
threads, its GPU, and what it has started all end with it, and it is spoken to in the same words.
"""

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Condition

from adarelu_sweep.launching.launcher import Event, Gone, Said, Slot
from adarelu_sweep.launching.local import LocalWorker
from adarelu_sweep.launching.messages import FromWorker, ToWorker

_LONGEST_WAIT = 10.0  # seconds until one who listens is told that there is nothing new


@dataclass(frozen=True)
class Left:
    """The worker process ended; nothing comes after this."""

    reason: str
    in_order: bool


class Host:
    """Runs one worker, and keeps what it says until that has arrived.

    Args:
        slot: The worker's slot; which GPU it has, Ray has said by then.
        log: Where its output goes: below the home, if this node shares it.
        folder: The supervisor's current folder, where a user's components may lie.
        environment: What a worker gets of the supervisor's environment. The rest is the node's.
        granted: Which credentials a worker gets of the node's environment: ``local.environment``.
        needs_home: Whether this node has to share the home: not if checkpoints are in a store.

    Raises RuntimeError, in one line, where the node lacks what every worker needs: that is a failed
    start and costs no trial anything.
    """

    def __init__(
        self,
        slot: Slot,
        log: str,
        folder: str,
        environment: Mapping[str, str],
        granted: Sequence[str] = (),
        needs_home: bool = True,
    ) -> None:
        if granted and find_spec("s3fs") is None:
            raise RuntimeError(
                f"s3fs, which a store needs, is not installed on {socket.gethostname()}: "
                "pip install 'adarelu-sweep[s3]' there"
            )
        if not needs_home:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
        elif not Path(log).parent.is_dir():
            raise RuntimeError(
                f"{Path(log).parent} is not there on {socket.gethostname()}: the home has to lie "
                "in a folder that all nodes share under one path, or execution.checkpoints has to "
                "be an object store"
            )
        os.environ.update(environment)
        with suppress(OSError):
            os.chdir(folder)
        if slot.gpu is not None:
            slot = replace(slot, gpu=os.environ["CUDA_VISIBLE_DEVICES"])
        self._news = Condition()
        self._kept: deque[FromWorker | Left] = deque()
        self._dropped = 0
        self._worker = LocalWorker(slot, self._keep, Path(log), granted)

    def node(self) -> str:
        """Return the id of the node that it runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def listen(self, received: int) -> list[FromWorker | Left]:
        """Wait for what comes after so much that was received; nothing, if it takes too long.

        What an answer brought that was lost on its way comes again.
        """
        with self._news:
            while self._dropped < received:
                self._kept.popleft()
                self._dropped += 1
            self._news.wait_for(lambda: self._kept, _LONGEST_WAIT)
            return list(self._kept)

    def send(self, message: ToWorker) -> None:
        """Send the worker a message."""
        self._worker.send(message)

    def kill(self) -> None:
        """End the worker at once, and what it has started."""
        self._worker.kill()

    def _keep(self, event: Event) -> None:
        with self._news:
            match event:
                case Said():
                    self._kept.append(event.message)
                case Gone():
                    self._kept.append(Left(event.reason, event.in_order))
            self._news.notify_all()
