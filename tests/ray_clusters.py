"""Ray clusters of several nodes on this machine, which have credentials in their environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CREDENTIALS = {"AWS_SECRET_ACCESS_KEY": "secret", "MLFLOW_TRACKING_PASSWORD": "secret"}
_STORE = 80 * 2**20  # bytes of shared memory for Ray's objects, nearly the least that it takes


class Nodes:
    """A cluster as a test uses it. Its head gives nothing and is never killed."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    def add(self, cpus: int = 1, gpus: int = 0) -> Any:
        """Start a node and wait until it is there."""
        return self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=_STORE)

    def kill(self, node: Any) -> None:
        """End a node as a loss of power does: at once, with all that runs on it."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def ray_cluster() -> Iterator[Nodes]:
    """Start a cluster with a head alone; skip the test where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        for name, value in CREDENTIALS.items():
            patched.setenv(name, value)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.delenv("RAY_ADDRESS", raising=False)
        # A node counts as dead after two seconds, not fifteen.
        health = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
        health |= {"health_check_initial_delay_ms": 500}
        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": health})
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()
