"""The MLflow server's life, what a run holds, and delivery through an outage. All of it real."""

import csv
import json
import math
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from subprocess import DEVNULL, PIPE, Popen
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from safetensors.numpy import save_file

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.storing.marks import put_mark
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.experiment import KIND_TAG, STUDY_TAG
from adarelu_sweep.tracking.hanging import Vigil
from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker
from adarelu_sweep.tracking.server import Server, ensure_server, find_server, stop_server
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.tracking.study_report import ArmCurves, StudyReport
from adarelu_sweep.training.history import (
    CHECKPOINT,
    CONFUSION_MATRIX,
    EpochRecord,
    History,
    Outcome,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module", autouse=True)
def _client() -> None:
    """What a sweep tells MLflow's client, for every test here, whichever of them run."""
    prepare_client()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
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
            "name": re.sub(r"\W+", "-", request.node.name).strip("-"),
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
        self.study = record.uid
        self.number = number
        self.folder = folder / str(number)
        self.folder.mkdir()
        self.settings = list(cells(record.study))[number].settings
        self.history = History()

    def train(self, epochs: int, outcome: Outcome | None = None, loss: float = 0.5) -> None:
        split = self.settings.measured_on
        for epoch in range(len(self.history.epochs) + 1, len(self.history.epochs) + epochs + 1):
            metrics = {
                "train/loss": loss,
                f"{split}/loss": loss,
                "train/accuracy": epoch * 1.5,
                f"{split}/accuracy": epoch / 3,
            }
            self.add(EpochRecord(epoch=epoch, timestamp=1_700_000_000_000 + epoch, metrics=metrics))
        self.keep(outcome)

    def add(self, record: EpochRecord) -> None:
        self.history.epochs.append(record)

    def keep(self, outcome: Outcome | None = None) -> None:
        self.history.outcome = outcome
        metadata = {"history": self.history.model_dump_json()}
        save_file({"weight": np.zeros(1)}, self.folder / CHECKPOINT, metadata)

    def snapshot(self, status: RunStatus = "RUNNING", **tags: str) -> TrialSnapshot:
        where = (self.folder, self.folder)
        return TrialSnapshot(
            str(self.number), "s", self.number, self.settings, *where, status, tags
        )


def study_report(folder: Path, *arms: ArmCurves, note: str = "| a | table |") -> StudyReport:
    """A report whose folder holds one file."""
    report = folder / "report"
    report.mkdir(exist_ok=True)
    (report / "report.md").write_text(note)
    return StudyReport(report, note, list(arms))


def arm(name: str, *accuracies: float, colour: str = "") -> ArmCurves:
    curves = {"test/accuracy": list(accuracies), "test/loss": [math.nan] * len(accuracies)}
    params = {"activation.name": name}
    return ArmCurves(f"{name}, vgg16: mean of 3 seeds", name, params, curves, colour)


def arm_runs(tracker: MlflowTracker, client: MlflowClient) -> list[Run]:
    """The arms' runs in the order in which MLflow lists them by default, as a person sees them."""
    experiment = client.get_run(tracker.parent_run).info.experiment_id
    found = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    return [run for run in found if run.data.tags["adarelu_sweep.kind"] == "arm"]


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


@pytest.mark.long
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
    folder = home.artifacts / "1" / "run" / "artifacts"
    folder.mkdir(parents=True)
    for name in (".artifact.uploading.abc_1", "model.safetensors"):
        (folder / name).touch()
    second = ensure_server(home, port)  # the port that the dead server's child still had
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
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


@pytest.mark.long
def test_a_server_that_hangs_is_replaced(tmp_path: Path) -> None:
    """As one does that was interrupted in its start: it lives, and says nothing any more."""
    home = Home(tmp_path)
    first = ensure_server(home)
    hanging = first.processes()
    for process in hanging:
        process.suspend()
    try:
        second = ensure_server(home)
        assert second.pid != first.pid
        assert second.answers()
        assert not any(process.is_running() for process in hanging)
    finally:
        stop_server(home)


def test_who_does_something_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adarelu_sweep.tracking.hanging._PATIENCE", 0.8)
    for code, hangs in (("while True: pass", False), ("import time; time.sleep(60)", True)):
        with Popen([sys.executable, "-c", code]) as process:
            vigil = Vigil(lambda pid=process.pid: [psutil.Process(pid)])
            ends = time.monotonic() + 2
            seen = []
            while time.monotonic() < ends:
                time.sleep(0.1)
                seen.append(vigil.hangs())
            process.kill()
        assert any(seen) == hangs


@pytest.mark.long
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


def test_a_server_that_cannot_be_recorded_does_not_live_on(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    before = psutil.Process().children()
    limits = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (16, limits[1]))  # as on a full disk: server.json is longer
    try:
        with pytest.raises(OSError, match="File too large"):
            ensure_server(home)
        left = [process for process in psutil.Process().children() if process not in before]
    finally:
        setrlimit(RLIMIT_FSIZE, limits)
    for process in left:
        process.kill()
    assert left == []
    assert not home.server_file.exists()


def record_server(home: Home, server: Server) -> None:
    home.root.mkdir(exist_ok=True)
    home.server_file.write_text(json.dumps(asdict(server)))


def test_a_stranger_who_has_the_servers_number_is_let_alone(tmp_path: Path) -> None:
    """After a reboot it may be the user's shell, or what listens on the very port."""
    home = Home(tmp_path / "home")
    (tmp_path / "health").touch()
    port = free_port()
    serving = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    stranger = psutil.Popen(serving, cwd=tmp_path, stderr=DEVNULL, start_new_session=True)
    try:
        real = Server(stranger.pid, stranger.create_time(), port)
        wait_until(real.answers)
        earlier = replace(real, process_started=real.process_started - 3600)
        record_server(home, earlier)
        assert find_server(home) is None
        assert not earlier.answers()
        assert stop_server(home) is None
        assert stranger.is_running()
        assert stranger.status() != psutil.STATUS_ZOMBIE
    finally:
        stranger.kill()
        stranger.wait(10)


def test_what_a_dead_server_left_is_stopped_unless_the_machine_has_restarted(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    leaving = "sleep 600 >/dev/null & echo $!"
    with psutil.Popen(["sh", "-c", leaving], stdout=PIPE, start_new_session=True) as leader:
        started = leader.create_time()
        rest = psutil.Process(int(leader.stdout.read()))
    try:
        assert not psutil.pid_exists(leader.pid)
        record_server(home, Server(leader.pid, psutil.boot_time() - 3600, 5000))
        assert stop_server(home) is None
        assert rest.is_running()
        record_server(home, Server(leader.pid, started, 5000))
        assert stop_server(home) is not None
        assert not rest.is_running() or rest.status() == psutil.STATUS_ZOMBIE
    finally:
        with suppress(psutil.NoSuchProcess):
            rest.kill()


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
    delivered = Delivered.read(trial.folder, record.uid)
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


def test_an_epoch_that_is_trained_again_is_not_sent_again(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """As after a damaged checkpoint: back to the one before, or to the beginning."""
    tracker = MlflowTracker(server.url, record, tmp_path)
    for number, kept in ((0, 1), (1, 0)):
        trial = Trial(tmp_path, record, number)
        trial.train(2)
        tracker.deliver(trial.snapshot(attempts="1"))
        trial.history.epochs = trial.history.epochs[:kept]
        trial.keep()
        tracker.deliver(trial.snapshot(attempts="2"))
        for epoch in range(kept + 1, 4):
            metrics = dict.fromkeys(["train/loss", "test/loss", "train/accuracy"], 0.5)
            metrics["test/accuracy"] = epoch / 3
            trial.add(
                EpochRecord(epoch=epoch, timestamp=2_000_000_000_000 + epoch, metrics=metrics)
            )
            trial.keep("complete" if epoch == 3 else None)
            tracker.deliver(trial.snapshot("FINISHED" if epoch == 3 else "RUNNING", attempts="2"))
        delivered = Delivered.read(trial.folder, record.uid)
        assert delivered is not None
        assert delivered.epochs == 3
        client = MlflowClient(server.url)
        assert steps(client, delivered.run_id, "test/accuracy") == [1, 2, 3]
        assert client.get_run(delivered.run_id).data.tags["attempts"] == "2"


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
        delivered = Delivered.read(trial.folder, record.uid)
        assert delivered is not None
        statuses.append(client.get_run(delivered.run_id).info.status)
    assert statuses == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert Delivered.is_settled(trial.folder, record.uid, "FINISHED")


@pytest.mark.parametrize("course", [["FINISHED"], ["FAILED"], ["KILLED", "FINISHED"]])
def test_what_a_retry_trains_arrives_though_nothing_did_while_it_ran(
    server: Server, record: StudyRecord, tmp_path: Path, course: list[RunStatus]
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    ledger = Ledger(home.optuna_db)
    book = ledger.create(record)
    book.fail(book.begin(next(iter(cells(record.study))), threads=1), "it did not add up")
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.folder = home.trial_folder(record.study.name, 0)
    trial.folder.mkdir(parents=True)
    trial.train(1)
    tracker.deliver(trial.snapshot("FAILED"))
    assert Delivered.is_settled(trial.folder, record.uid, "FAILED")
    Agenda(book, home).retry_failed()
    assert [trial.state for trial in book.trials()] == [TrialState.WAITING]
    ledger.close()
    trial.train(2)
    for status in course:
        assert not Delivered.is_settled(trial.folder, record.uid, status), (
            "else it would not be delivered"
        )
        tracker.deliver(trial.snapshot(status))
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    client = MlflowClient(server.url)
    assert client.get_run(delivered.run_id).info.status == course[-1]
    assert steps(client, delivered.run_id) == [1, 2, 3]
    history = client.download_artifacts(delivered.run_id, "history.csv", str(tmp_path))
    assert len(Path(history).read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("course", [["FINISHED"], ["KILLED", "FINISHED"], ["KILLED", "FAILED"]])
def test_what_another_home_made_of_a_failure_arrives_whole(
    server: Server, record: StudyRecord, tmp_path: Path, course: list[RunStatus]
) -> None:
    """It was tried again there, of which what was delivered here knows nothing."""
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(1)
    tracker.deliver(trial.snapshot("FAILED"))
    trial.train(2, "complete")
    for status in course:
        assert not Delivered.is_settled(trial.folder, record.uid, status)
        tracker.deliver(trial.snapshot(status))
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    client = MlflowClient(server.url)
    assert client.get_run(delivered.run_id).info.status == course[-1]
    assert steps(client, delivered.run_id) == [1, 2, 3]
    history = client.download_artifacts(delivered.run_id, "history.csv", str(tmp_path))
    assert len(Path(history).read_text().splitlines()) == 1 + 3


def test_what_was_delivered_of_a_deleted_study_says_nothing_of_one_with_its_name(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """Another home deleted it and launched the other; in this one lies what it had of the first."""
    before = MlflowTracker(server.url, record, tmp_path)
    first = Trial(tmp_path, record, 0)
    first.train(2, "complete")
    before.deliver(first.snapshot("FINISHED"))
    before.end_study("FINISHED")
    anew = record.model_copy(update={"uid": f"{record.uid} anew"})
    for folder in (tmp_path, first.folder):
        assert Delivered.read(folder, anew.uid) is None
        assert not Delivered.is_settled(folder, anew.uid, "FINISHED")
    Delivered.reopen(first.folder, anew.uid)
    after = MlflowTracker(server.url, anew, tmp_path)
    assert after.parent_run != before.parent_run
    after.deliver(first.snapshot("FINISHED"))
    after.settle()
    after.end_study("FINISHED")
    client = MlflowClient(server.url)
    runs = client.search_runs([client.get_run(after.parent_run).info.experiment_id])
    found = Counter((run.data.tags[STUDY_TAG], run.data.tags[KIND_TAG]) for run in runs)
    assert found == {
        (uid, kind): 1 for uid in (record.uid, anew.uid) for kind in ("study", "trial")
    }
    for run in runs:
        if run.data.tags[KIND_TAG] == "trial":
            assert steps(client, run.info.run_id) == [1, 2]
            assert client.list_artifacts(run.info.run_id)


def test_a_kill_as_a_retry_begins_costs_no_more_than_a_delivery(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    trial = Trial(tmp_path, record, 0)
    Delivered.reopen(trial.folder, record.uid)  # of which nothing was delivered
    assert Delivered.read(trial.folder, record.uid) is None
    trial.train(1)
    tracker.deliver(trial.snapshot("FAILED"))
    Delivered.reopen(trial.folder, record.uid)
    tracker.settle()
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    client = MlflowClient(server.url)
    assert client.get_run(delivered.run_id).info.status == "FAILED"
    tracker.deliver(trial.snapshot("FAILED"))
    assert Delivered.is_settled(trial.folder, record.uid, "FAILED")
    assert steps(client, delivered.run_id) == [1]


def test_a_long_history_and_what_is_not_finite_arrive_whole(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """More than the 1,000 metrics that MLflow takes in one call, and a loss that is none."""
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(400)
    trial.train(1, "diverged", loss=math.nan)
    tracker.deliver(trial.snapshot("FINISHED", outcome="diverged"))
    delivered = Delivered.read(trial.folder, record.uid)
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
    first = Delivered.read(trial.folder, record.uid)
    assert first is not None
    made = client.get_run(first.run_id)
    tags = {key: value for key, value in made.data.tags.items() if "runName" not in key}
    client.create_run(made.info.experiment_id, tags=tags)
    (trial.folder / "delivered.json").unlink()
    tracker.deliver(trial.snapshot("FINISHED"))
    assert Delivered.read(trial.folder, record.uid) == first
    found = client.search_runs([made.info.experiment_id])
    assert {run.info.run_id for run in found} == {first.run_id, tracker.parent_run}


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_the_study_run_shows_the_report(
    server: Server, record: StudyRecord, tmp_path: Path, status: RunStatus
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    client = MlflowClient(server.url)
    long = "\n".join(f"| line {n} | {'x' * 50} |" for n in range(1000))
    for note in ("| first |", "| second |", long):
        tracker.log_report(study_report(tmp_path, note=note))
        tracker.end_study(status)
        shown = client.get_run(tracker.parent_run).data.tags["mlflow.note.content"]
        table, cut, _ = shown.partition("\n\n(Cut here")
        assert bool(cut) == (note is long)
        assert note.startswith(table)
        assert len(table) > 7000 or table == note
        assert table.endswith("|"), "it ends with a whole line"
    assert client.get_run(tracker.parent_run).info.status == status
    assert Delivered.is_settled(tmp_path, record.uid, status)
    kept = client.download_artifacts(tracker.parent_run, "report/report.md", str(tmp_path))
    assert Path(kept).read_text() == long


def test_arm_runs_are_those_of_the_newest_report(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    client = MlflowClient(server.url)
    relu, adarelu = arm("relu", 90.0, 95.5, colour="#3f90da"), arm("adarelu", 60.0, 70.25)
    for _ in range(2):
        tracker.log_report(study_report(tmp_path, relu, adarelu))
        runs = arm_runs(tracker, client)
        assert [run.data.tags["arm"] for run in runs] == ["relu", "adarelu"]
    first, second = runs
    assert first.data.tags["mlflow.runColor"] == "#3f90da"
    assert second.data.tags.get("mlflow.runColor", "") != "#3f90da"
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert second.info.run_name == "adarelu, vgg16: mean of 3 seeds"
    assert second.data.params == {"activation.name": "adarelu"}
    assert "mlflow.parentRunId" not in second.data.tags
    history = client.get_metric_history(second.info.run_id, "test/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 60.0), (2, 70.25)]
    assert math.isnan(second.data.metrics["test/loss"])
    # What is the same stays; what has changed is replaced; what is gone, goes.
    tracker.log_report(study_report(tmp_path, relu, arm("adarelu", 60.0, 70.5)))
    again = arm_runs(tracker, client)
    assert again[0].info.run_id == first.info.run_id
    assert again[1].info.run_id != second.info.run_id
    assert again[1].data.metrics["test/accuracy"] == 70.5
    tracker.log_report(study_report(tmp_path, relu))
    assert [run.data.tags["arm"] for run in arm_runs(tracker, client)] == ["relu"]


def test_what_a_kill_left_of_the_arm_runs_is_cleared(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """Killed at each request in turn, and repeated: one run for each arm, whole."""
    client = MlflowClient(server.url)
    before = study_report(tmp_path, arm("relu", 90.0, 95.0), arm("adarelu", 60.0, 70.0))
    after = study_report(tmp_path, arm("relu", 90.0, 95.0), arm("adarelu", 60.0, 80.0))
    for calls in range(5):
        tracker = MlflowTracker(server.url, record, tmp_path)
        tracker.log_report(before)
        left = calls

        def send(send: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionError("killed")
            return send(*arguments, **options)

        killed = MlflowTracker(server.url, record, tmp_path)
        for name in ("set_tag", "create_run", "log_batch", "set_terminated", "delete_run"):
            setattr(killed._client, name, partial(send, getattr(killed._client, name)))
        with pytest.raises(ConnectionError):
            killed.log_report(after)
        tracker.log_report(after)
        found = [run.data.metrics["test/accuracy"] for run in arm_runs(tracker, client)]
        assert found == [95.0, 80.0], f"killed at request {calls}"


def test_probes_are_a_few_metrics_and_one_table(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    client = MlflowClient(server.url)
    for epoch in (1, 2):
        layers = {f"features.{n}.act": {"sparsity": n / 8, "dead_fraction": 0.5} for n in range(3)}
        layers["last.act"] = {"imbalance": epoch / 4}
        metrics = dict.fromkeys(["train/loss", "train/accuracy", "test/loss", "test/accuracy"], 1.0)
        if epoch == 2:
            metrics["test/accuracy_batch_1"] = 12.5
        trial.add(EpochRecord(epoch=epoch, timestamp=epoch, metrics=metrics, probes=layers))
        trial.keep("complete" if epoch == 2 else None)
        for _ in range(2):
            tracker.deliver(trial.snapshot("RUNNING" if epoch == 1 else "FINISHED"))
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    run = client.get_run(delivered.run_id)
    probed = {key: value for key, value in run.data.metrics.items() if key.startswith("probe/")}
    assert probed == {"probe/sparsity": 0.125, "probe/dead_fraction": 0.5, "probe/imbalance": 0.5}
    assert steps(client, delivered.run_id, "probe/sparsity") == [1, 2]
    assert run.data.metrics["test/accuracy_batch_1"] == 12.5
    folder = Path(client.download_artifacts(delivered.run_id, "", str(tmp_path)))
    with (folder / "probes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 * 2 + 1)
    assert rows[-1] == {"epoch": "2", "layer": "last.act", "quantity": "imbalance", "value": "0.5"}
    assert (folder / "probes.png").stat().st_size > 1000
    with (folder / "history.csv").open(newline="") as file:
        assert [row["test/accuracy_batch_1"] for row in csv.DictReader(file)] == ["", "12.5"]


def test_a_trial_of_a_search_has_a_validation_split(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 1)
    trial.settings = trial.settings.model_copy(update={"validation_fraction": 0.25})
    trial.train(2, "complete")
    (trial.folder / CONFUSION_MATRIX).write_text("1,0\n0,1\n")
    tracker.deliver(trial.snapshot("FINISHED"))
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    client = MlflowClient(server.url)
    run = client.get_run(delivered.run_id)
    assert run.info.run_name == "relu, vgg16, digits: search 001"
    assert steps(client, delivered.run_id, "val/accuracy") == [1, 2]
    assert not any(key.startswith("test/") for key in run.data.metrics)
    files = {file.path for file in client.list_artifacts(delivered.run_id)}
    assert {"curves.png", "history.csv", "confusion_matrix.png"} <= files


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
    assert delivery.finish("FINISHED", study_report(tmp_path), patience=30)
    assert len(troubles) == 1
    assert "not yet there" in troubles[0]
    client = MlflowClient(server.url)
    for trial in trials:
        delivered = Delivered.read(trial.folder, record.uid)
        assert delivered is not None
        assert client.get_run(delivered.run_id).info.status == "FINISHED"
        assert steps(client, delivered.run_id) == [1, 2, 3, 4, 5]
    parent = Delivered.read(tmp_path, record.uid)
    assert parent is not None
    assert client.get_run(parent.run_id).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(parent.run_id, "report")] == ["report/report.md"]


@pytest.mark.long
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
        wait_until(lambda: Delivered.read(trial.folder, record.uid))
        for process in server.processes():
            process.kill()
        for _ in range(3):
            trial.train(1)
            delivery.post(trial.snapshot())
            time.sleep(0.2)
        wait_until(lambda: troubles)
        ensure_server(home, server.port)
        trial.train(1, "complete")
        delivery.post(trial.snapshot("FINISHED"))
        assert delivery.finish("FINISHED", None, patience=30)
        assert len(troubles) == 1
        delivered = Delivered.read(trial.folder, record.uid)
        assert delivered is not None
        assert steps(MlflowClient(server.url), delivered.run_id) == [1, 2, 3, 4, 5]
    finally:
        stop_server(home)


class Held(MlflowTracker):
    """One that stops in the midst of something until it is released."""

    def __init__(self, at: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.at = at
        self.reached, self.released = Event(), Event()

    def hold(self, at: str) -> None:
        if at == self.at:
            self.reached.set()
            assert self.released.wait(60)

    def register_best(self, report: StudyReport) -> str | None:
        self.hold("the registration")
        return super().register_best(report)

    def end_study(self, status: RunStatus) -> None:
        self.hold(f"the end: {status}")
        super().end_study(status)

    def _keep(self, delivered: Delivered, folder: Path) -> None:
        self.hold(f"a note: {folder.name} {delivered.status}")
        super()._keep(delivered, folder)


@pytest.mark.parametrize("at", ["the registration", "the end: FINISHED"])
def test_the_last_word_on_a_studys_end_is_the_newest(
    server: Server, record: StudyRecord, tmp_path: Path, at: str
) -> None:
    """Somebody who does not want to wait for the end asks for another."""
    held = Held(at, server.url, record, tmp_path)
    delivery = Delivery(lambda: held, print)
    with ThreadPoolExecutor() as threads:
        threads.submit(delivery.finish, "FINISHED", study_report(tmp_path), 30)
        assert held.reached.wait(30)
        newest = threads.submit(delivery.finish, "KILLED", None, 30)
        if at == "the registration":
            assert newest.result(), "nobody waits for the registration"
        else:
            time.sleep(0.5)
        held.released.set()
        assert newest.result()
        wait_until(lambda: not any(thread.name == "end" for thread in enumerate_threads()))
    assert Delivered.is_settled(tmp_path, record.uid, "KILLED")
    assert MlflowClient(server.url).get_run(held.parent_run).info.status == "KILLED"


def test_what_is_still_being_delivered_at_the_end_is_not_set_back(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    """Its run has ended, and it is not noted yet."""
    held = Held("a note: 0 FINISHED", server.url, record, tmp_path)
    delivery = Delivery(lambda: held, print)
    trial = Trial(tmp_path, record, 0)
    trial.train(1)
    delivery.post(trial.snapshot())
    wait_until(lambda: Delivered.is_settled(trial.folder, record.uid, "RUNNING"))
    trial.train(1, "complete")
    delivery.post(trial.snapshot("FINISHED"))
    assert held.reached.wait(30)
    assert not delivery.finish("FINISHED", None, patience=1)
    assert Delivered.is_settled(tmp_path, record.uid, "FINISHED")
    held.released.set()
    wait_until(lambda: Delivered.is_settled(trial.folder, record.uid, "FINISHED"))
    delivered = Delivered.read(trial.folder, record.uid)
    assert delivered is not None
    assert MlflowClient(server.url).get_run(delivered.run_id).info.status == "FINISHED"


def test_what_is_not_delivered_is_told_and_stays(record: StudyRecord, tmp_path: Path) -> None:
    troubles: list[str] = []

    def connect() -> MlflowTracker:
        raise ConnectionError("gone for good")

    delivery = Delivery(connect, troubles.append)
    trial = Trial(tmp_path, record, 0)
    trial.train(5, "complete")
    delivery.post(trial.snapshot("FINISHED"))
    assert not delivery.finish("FINISHED", None, patience=0.5)
    assert len(troubles) == 1
    assert not Delivered.is_settled(trial.folder, record.uid, "FINISHED")


def placed(record: StudyRecord, folder: Path) -> StudyRecord:
    """The study, with a place of its own for what its workers leave."""
    execution = record.study.execution.model_copy(update={"checkpoints": str(folder)})
    study = record.study.model_copy(update={"execution": execution})
    record = record.model_copy(update={"study": study, "uid": "u" * 32})
    assert isinstance(record.place, Path)
    record.place.mkdir()
    return record


def test_a_run_is_not_finished_without_all_its_epochs(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    record = placed(record, tmp_path)
    assert record.place is not None
    put_mark(record.place, record.uid)
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    finished = replace(trial.snapshot("FINISHED"), epochs=5)
    trial.train(3)
    with pytest.raises(StorageError, match="its history has 3 of 5 epochs"):
        tracker.deliver(finished)
    assert not Delivered.is_settled(trial.folder, record.uid, "FINISHED")
    trial.train(2, "complete")
    tracker.deliver(finished)
    assert Delivered.is_settled(trial.folder, record.uid, "FINISHED")


def test_a_history_that_was_lost_in_the_home_does_not_keep_a_run_from_its_end(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(3)
    tracker.deliver(replace(trial.snapshot("FINISHED"), epochs=5))
    assert Delivered.is_settled(trial.folder, record.uid, "FINISHED")


def test_nothing_is_delivered_from_a_place_that_is_not_there(
    server: Server, record: StudyRecord, tmp_path: Path
) -> None:
    record = placed(record, tmp_path)
    assert record.place is not None
    tracker = MlflowTracker(server.url, record, tmp_path)
    trial = Trial(tmp_path, record, 0)
    trial.train(5, "complete")
    with pytest.raises(StorageError, match="is missing there: mount the folder"):
        tracker.deliver(trial.snapshot("FINISHED"))
    assert not Delivered.is_settled(trial.folder, record.uid, "FINISHED")
    put_mark(record.place, record.uid)
    tracker.deliver(trial.snapshot("FINISHED"))
    assert Delivered.is_settled(trial.folder, record.uid, "FINISHED")


@pytest.mark.long
def test_nothing_is_left_to_a_stranger_who_takes_the_servers_port(
    home: Home, record: StudyRecord, tmp_path: Path
) -> None:
    """Its runs and artifacts have the same addresses, up to their ids."""
    stop_server(home)
    server = ensure_server(home, free_port())  # which no server takes that looks for one
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    experiment = MlflowClient(server.url).get_run(tracker.parent_run).info.experiment_id
    trial = Trial(tmp_path, record, 0)
    trial.train(5, "complete")
    stop_server(home)
    stranger = Home(tmp_path / "stranger")
    try:
        theirs = MlflowClient(ensure_server(stranger, server.port).url)
        names = map(str, range(1000))
        while theirs.create_experiment(next(names)) != experiment:
            pass
        with pytest.raises(MlflowException):
            tracker.deliver(trial.snapshot("FINISHED"))
        with pytest.raises(MlflowException, match="has ended"):
            MlflowTracker(server.url, record, tmp_path, server.is_alive)
        moved = MlflowTracker(ensure_server(home).url, record, tmp_path)
        moved.deliver(trial.snapshot("FINISHED"))
        moved.log_report(study_report(tmp_path))
        assert theirs.search_runs([experiment]) == []
    finally:
        stop_server(stranger)
    client = MlflowClient(ensure_server(home).url)
    assert client.list_artifacts(moved.parent_run, "report")
    assert len(client.search_runs([experiment])) == 2
