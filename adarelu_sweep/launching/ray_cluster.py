"""The connection to a Ray cluster: its nodes, and the launcher of workers there."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.nodes import Node

_PATIENCE = 5.0  # seconds for a head to answer

NAMESPACE = "adarelu-sweep"
"""Where the names of our actors are known."""


class RayCluster:
    """A Ray cluster that this process is a driver of, until it disconnects.

    Args:
        address: Of its head, ``HOST:PORT``. None for the one that Ray finds (``RAY_ADDRESS``, or
            one that runs on this machine), else one of this machine alone, for as long as this
            process needs it.

    Raises UserError where there is none, or Ray is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        self._ours = False
        try:
            import ray
        except ImportError:
            raise UserError(
                "--launcher ray needs Ray: pip install 'adarelu-sweep[ray]', here and on every node"
            ) from None
        if ray.is_initialized():  # by the program that calls us
            return
        if asked := address or os.environ.get("RAY_ADDRESS"):
            _require_answer(asked)
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        settings |= {"namespace": NAMESPACE, "include_dashboard": False}
        try:
            with _signals_kept():
                ray.init(address, **settings)
            # What happens to nodes would be printed between our own lines; the launcher tells it.
            ray_worker: Any = ray._private.worker
            ray_worker._worker_logs_enabled = False
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            where = f"--ray-address {address}" if address else "Ray"
            raise UserError(
                f"{where}: no cluster can be joined ({said}); 'ray start' starts a node"
            ) from None
        self._ours = True

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive, those first that have been there longest."""
        import ray

        listed: Callable[[], list[dict[str, Any]]] = ray.nodes
        return [
            Node(
                id=str(node["NodeID"]),
                name=str(node["NodeManagerHostname"]),
                cpus=float(node["Resources"].get("CPU", 0)),
                gpus=float(node["Resources"].get("GPU", 0)),
            )
            for node in listed()
            if node["Alive"]
        ]

    def disconnect(self) -> None:
        """Leave the cluster, which ends what this process has started there."""
        if self._ours:
            import ray

            self._ours = False
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise UserError where no head listens: Ray tries for two minutes before it says so."""
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):  # words of Ray's own
        return
    if not host or "/" in host or not port.isdigit():
        raise UserError(
            f"--ray-address {address}: give HOST:PORT of the cluster's head, and run this on a "
            "machine of the cluster, which shares the home"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address {address}: no cluster's head answers there ({error}); 'ray start "
            "--head' starts one"
        ) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what Ray makes of SIGTERM, which is ours to heed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
