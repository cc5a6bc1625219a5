"""The MLflow server's life, what a run holds, and delivery through an outage. All of it real."""

import math
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow.tracking import MlflowClient
from safetensors.numpy import save_file

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker
from adarelu_sweep.tracking.server import Server, ensure_server, find_server, stop_server
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.training.history import CHECKPOINT, EpochRecord, History, Outcome


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    prepare_client()
    home = Home(tmp_path_factory.mktemp("tracking"))
    yield home
    stop_server(home)


@pytest.fixture
def server(home: Home) -> Server:
    return ensure_server(home)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> StudyRecord:
    """A study of one arm and three seeds, named after the test."""
    study = Study.model_validate(
        {
            "name": request.node.name,
            "matrix": {"dataset": "digits", "network": "vgg16", "activation": "relu", "seeds": 3},
            "training": {"epochs": 5},
        }
    )
    return StudyRecord(
        uid=request.node.name, study=study, source="", created="2026-01-01", version="0"
    )


class Trial:
    """A trial's folder, whose history grows as a worker would write it."""

    def __init__(self, folder: Path, record: StudyRecord, number: int) -> None:
        self.number = number
        self.folder = folder / str(number)
        self.folder.mkdir()
        self.settings = list(cells(record.study))[number].settings
        self.history = History()

    def train(self, epochs: int, outcome: Outcome | None = None, loss: float = 0.5) -> None:
        for epoch in range(len(self.history.epochs) + 1, len(self.history.epochs) + epochs + 1):
            metrics = {
                "train/loss": loss,
                "test/loss": loss,
                "train/accuracy": epoch * 1.5,
                "test/accuracy": epoch / 3,
            }
            timestamp = 1_700_000_000_000 + epoch
            self.history.epochs.append(
                EpochRecord(epoch=epoch, timestamp=timestamp, metrics=metrics)
            )
        self.history.outcome = outcome
        metadata = {"history": self.history.model_dump_json()}
        save_file({"weight": np.zeros(1)}, self.folder / CHECKPOINT, metadata)

    def snapshot(self, status: RunStatus = "RUNNING", **tags: str) -> TrialSnapshot:
        return TrialSnapshot(str(self.number), self.settings, self.folder, status, tags)


def steps(client: MlflowClient, run_id: str, key: str = "test/accuracy") -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The server's life


def test_the_server_is_started_once_and_joined(home: Home, server: Server) -> None:
    assert server.answers()
    assert ensure_server(home) == server == find_server(home)
    with pytest.raises(UserError, match="already up at"):
        ensure_server(home, port=free_port())
    # In a session of its own, so that a terminal's Ctrl-C does not reach it.
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_the_server_listens_on_loopback_alone(server: Server) -> None:
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    listening = {
        connection.laddr
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", server.port)}


def test_a_killed_server_is_replaced_and_a_stopped_one_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    port = free_port()
    first = ensure_server(home, port)
    assert first.port == port
    leader = psutil.Process(first.pid)
    assert leader.children(), "the process that listens is another"
    leader.kill()
    leader.wait(10)
    assert find_server(home) is None
    second = ensure_server(home, port)  # the port that the dead server's child still had
    assert second.pid != first.pid
    processes = [psutil.Process(second.pid), *psutil.Process(second.pid).children(recursive=True)]
    assert stop_server(home) == second
    assert not any(process.is_running() for process in processes)
    assert find_server(home) is None
    assert stop_server(home) is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="in use"):
            ensure_server(home, taken.getsockname()[1])


def test_homes_that_start_at_once_get_servers_of_their_own(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor() as threads:
            servers = list(threads.map(ensure_server, homes))
        assert servers == [find_server(home) for home in homes]
        assert servers[0].port != servers[1].port
        assert all(server.answers() for server in servers)
    finally:
        for home in homes:
            stop_server(home)


# The tracker's contract


def test_delivering_again_and_again_leaves_every_metric_once(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    trial = Trial(tmp_path, record, 0)
    client = MlflowClient(server.url)
    for _ in range(3):
        trial.train(1)
        tracker.deliver(trial.snapshot(attempts="1"))
        tracker.deliver(trial.snapshot(attempts="1"))
    delivered = Delivered.read(trial.folder)
    assert delivered is not None
    assert delivered.epochs == 3
    assert steps(client, delivered.run_id) == [1, 2, 3]
    # Killed before it could note what it had sent: it finds the run and sends everything again.
    (trial.folder / "delivered.json").unlink()
    trial.train(2, "complete")
    again = MlflowTracker(server.url, record, tmp_path)
    assert again.parent_run == tracker.parent_run
    for _ in range(2):
        again.deliver(trial.snapshot("FINISHED", attempts="2", outcome="complete"))
    run = client.get_run(delivered.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempts"] == "2"
    assert run.data.params["training.epochs"] == "5"
    for key in ("test/accuracy", "train/loss"):
        assert steps(client, delivered.run_id, key) == [1, 2, 3, 4, 5]
    experiment = client.get_experiment_by_name(record.study.name)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_run_is_killed_running_again_and_finished(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    client = MlflowClient(server.url)
    statuses = []
    for status in ("RUNNING", "KILLED", "RUNNING", "FINISHED"):
        trial.train(1)
        tracker.deliver(trial.snapshot(status))
        delivered = Delivered.read(trial.folder)
        assert delivered is not None
        statuses.append(client.get_run(delivered.run_id).info.status)
    assert statuses == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert Delivered.is_settled(trial.folder, "FINISHED")


def test_a_long_history_and_what_is_not_finite_arrive_whole(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """More than the 1,000 metrics that MLflow takes in one call, and a loss that is none."""
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(400)
    trial.train(1, "diverged", loss=math.nan)
    tracker.deliver(trial.snapshot("FINISHED", outcome="diverged"))
    delivered = Delivered.read(trial.folder)
    assert delivered is not None
    client = MlflowClient(server.url)
    assert steps(client, delivered.run_id) == list(range(1, 402))
    losses = client.get_metric_history(delivered.run_id, "test/loss")
    assert math.isnan(losses[-1].value)
    assert losses[0].value == 0.5


def test_a_run_that_was_made_twice_is_one(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """The answer to the first request for a run was lost, and it was asked for again."""
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(2, "complete")
    tracker.deliver(trial.snapshot("FINISHED"))
    client = MlflowClient(server.url)
    first = Delivered.read(trial.folder)
    assert first is not None
    made = client.get_run(first.run_id)
    tags = {key: value for key, value in made.data.tags.items() if "runName" not in key}
    client.create_run(made.info.experiment_id, tags=tags)
    (trial.folder / "delivered.json").unlink()
    tracker.deliver(trial.snapshot("FINISHED"))
    assert Delivered.read(trial.folder) == first
    found = client.search_runs([made.info.experiment_id])
    assert {run.info.run_id for run in found} == {first.run_id, tracker.parent_run}


# Delivery


def test_delivery_waits_for_a_server_that_comes_late(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    troubles: list[str] = []
    attempts = 0

    def connect() -> MlflowTracker:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError("not yet there")
        return MlflowTracker(server.url, record, tmp_path)

    delivery = Delivery(connect, troubles.append)
    trials = [Trial(tmp_path, record, number) for number in range(3)]
    for trial in trials:
        trial.train(2)
        delivery.post(trial.snapshot())
        trial.train(3, "complete")
        delivery.post(trial.snapshot("FINISHED"))
    assert delivery.finish("FINISHED", {"table.txt": "x"}, patience=30)
    assert len(troubles) == 1
    assert "not yet there" in troubles[0]
    client = MlflowClient(server.url)
    for trial in trials:
        delivered = Delivered.read(trial.folder)
        assert delivered is not None
        assert client.get_run(delivered.run_id).info.status == "FINISHED"
        assert steps(client, delivered.run_id) == [1, 2, 3, 4, 5]
    parent = Delivered.read(tmp_path)
    assert parent is not None
    assert client.get_run(parent.run_id).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(parent.run_id, "report")] == ["report/table.txt"]


def test_a_server_that_dies_and_comes_back_gets_everything_once(
    record: StudyRecord, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    server = ensure_server(home, free_port())
    try:
        troubles: list[str] = []
        delivery = Delivery(
            lambda: MlflowTracker(server.url, record, tmp_path), troubles.append, threads=2
        )
        trial = Trial(tmp_path, record, 0)
        trial.train(1)
        delivery.post(trial.snapshot())
        deadline = time.monotonic() + 60
        while Delivered.read(trial.folder) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for process in server.processes():
            process.kill()
        for _ in range(3):
            trial.train(1)
            delivery.post(trial.snapshot())
            time.sleep(0.2)
        while not troubles:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ensure_server(home, server.port)
        trial.train(1, "complete")
        delivery.post(trial.snapshot("FINISHED"))
        assert delivery.finish("FINISHED", {}, patience=30)
        assert len(troubles) == 1
        delivered = Delivered.read(trial.folder)
        assert delivered is not None
        assert steps(MlflowClient(server.url), delivered.run_id) == [1, 2, 3, 4, 5]
    finally:
        stop_server(home)


def test_what_is_not_delivered_is_told_and_stays(record: StudyRecord, tmp_path: Path) -> None:
    troubles: list[str] = []

    def connect() -> MlflowTracker:
        raise ConnectionError("gone for good")

    delivery = Delivery(connect, troubles.append)
    trial = Trial(tmp_path, record, 0)
    trial.train(5, "complete")
    delivery.post(trial.snapshot("FINISHED"))
    assert not delivery.finish("FINISHED", {}, patience=0.5)
    assert len(troubles) == 1
    assert not Delivered.is_settled(trial.folder, "FINISHED")
