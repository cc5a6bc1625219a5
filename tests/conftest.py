"""Fixtures that several tests share."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import object_server, object_store, reached, reached_store
from tests.postgres import postgres
from tests.sweeps import STUDY

__all__ = ["object_server", "object_store", "postgres", "reached", "reached_store"]  # fixtures, too

_LONGEST = (
    "test_chaos.py",
    "test_stored_sweep.py",
    "test_ray.py",
    "test_launcher.py",
    "test_report.py",
    "test_sweep.py",
    "test_retries.py",
    "test_database_server.py",
    "test_training.py",
    "test_cli.py",
    "test_doctor.py",
    "test_tracking.py",
    "test_search.py",
    "test_pack.py",
    "test_life.py",
)


def pytest_configure() -> None:
    """Take signals as a person's shell has them, and a core for each of several test processes.

    Threads of one that wait for each other would otherwise lose the core to those of another.
    """
    # A shell that runs the tests in the background has these ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[1]) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes end at about the same time."""
    longest = {name: position for position, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: longest.get(item.path.name, len(longest)))


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home, tracking server or cloud account of the person who runs the tests."""
    tracking = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    own = ("ADARELU_SWEEP_HOME", "ADARELU_SWEEP_STORAGE", "ADARELU_SWEEP_GPU_LISTING", "PGPASSWORD")
    cloud = tuple(name for name in os.environ if name.startswith(("AWS_", "FSSPEC_")))
    for name in (*own, *tracking, *cloud):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread in torch, with which training repeats to the last bit on any machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study of four short trials."""
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path
