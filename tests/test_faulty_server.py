"""A tracking server that is lost, slow, silent or broken: all is delivered in the end, and once."""

import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.tracking import delivery as delivery_module
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker
from adarelu_sweep.tracking.pacing import PACE
from adarelu_sweep.training.history import MODEL
from tests.proxy import FATES, Fate, Proxy
from tests.sweeps import STUDY, Command, environment
from tests.test_tracking import Trial, arm, free_port, steps, study_report
from tests.waiting import wait_until

EPOCHS = 6
DISK = "24m"
SECONDS = 1  # until MLflow's client gives up a request here


@dataclass(frozen=True)
class Upstream:
    """The real server behind the proxies."""

    url: str
    disk: Path | None
    """What it writes to, a small file system of its own; None where that cannot be had here."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    folder = tmp_path_factory.mktemp("faulty")
    url = f"http://127.0.0.1:{free_port()}"
    mounted = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder]).returncode
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", f"{folder}/artifacts"),
        *("--host", "127.0.0.1", "--port", url.rpartition(":")[2]),
    ]
    if mounted == 0:
        mount = f'mount -t tmpfs -o size={DISK} none "{folder}" && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", *command]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder.parent / "faulty.log").open("wb") as log:
        process = psutil.Popen(
            command, env=environment(**quiet), stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: _is_up(url), seconds=120)
        disk = Path(f"/proc/{process.pid}/root{folder}") if mounted == 0 else None
        yield Upstream(url, disk)
    finally:
        for one in [process, *process.children(recursive=True)]:
            one.kill()


def _is_up(url: str) -> bool:
    with suppress(OSError), urlopen(f"{url}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture
def proxy(server: Upstream) -> Iterator[Proxy]:
    proxy = Proxy(server.url, late=SECONDS + 0.5)
    yield proxy
    proxy.end()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(delivery_module, "_RETRY_SECONDS", 0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is given up, where a slow machine would add to the troubles that are counted."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> StudyRecord:
    """A study of one arm, named after the test."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    study = Study.model_validate(
        {
            "name": name,
            "matrix": {"dataset": "digits", "network": "vgg16", "activation": "relu", "seeds": 4},
            "training": {"epochs": EPOCHS},
        }
    )
    return StudyRecord(uid=name, study=study, source="", created="2026-01-01", version="0")


def finished(trial: Trial) -> Trial:
    """Train what is left of a trial, and leave a model that takes a while to send."""
    trial.train(EPOCHS - len(trial.history.epochs), "complete")
    (trial.folder / MODEL).write_bytes(random.Random(trial.number).randbytes(200_000))
    return trial


def runs_of(server: Upstream, record: StudyRecord) -> dict[str, list[Run]]:
    """What is there of a study, by kind."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(record.study.name)
    assert experiment is not None
    found: dict[str, list[Run]] = {"study": [], "trial": [], "arm": []}
    for run in client.search_runs([experiment.experiment_id]):
        found[run.data.tags["adarelu_sweep.kind"]].append(run)
    return found


def downloaded(client: MlflowClient, run_id: str, target: Path) -> Path:
    """Fetch a run's artifacts; once more where the server just then ended a connection it kept."""
    with suppress(MlflowException):
        return Path(client.download_artifacts(run_id, "", str(target)))
    return Path(client.download_artifacts(run_id, "", str(target)))


def assert_all_is_there_once(
    server: Upstream, record: StudyRecord, trials: list[Trial], folder: Path
) -> None:
    """One run for the study and for every trial, finished; every metric once; files whole."""
    client = MlflowClient(server.url)
    found = runs_of(server, record)
    (parent,) = found["study"]
    assert parent.info.status == "FINISHED"
    names = Counter(run.data.tags["optuna.trial_number"] for run in found["trial"])
    assert names == {str(trial.number): 1 for trial in trials}
    for trial in trials:
        delivered = Delivered.read(trial.folder, record.uid)
        assert delivered is not None
        run = client.get_run(delivered.run_id)
        assert run.info.status == "FINISHED"
        assert run.info.lifecycle_stage == "active"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert set(run.data.metrics) == set(trial.history.epochs[0].metrics)
        for key in run.data.metrics:
            assert sorted(steps(client, run.info.run_id, key)) == list(range(1, EPOCHS + 1))
        target = folder / f"got-{trial.number}"
        target.mkdir()
        got = downloaded(client, run.info.run_id, target)
        assert (got / "model" / MODEL).read_bytes() == (trial.folder / MODEL).read_bytes()
        assert len((got / "history.csv").read_text().splitlines()) == EPOCHS + 1
        assert (got / "curves.png").read_bytes()[-8:-4] == b"IEND"


@pytest.mark.long
def test_whatever_becomes_of_the_requests_all_is_there_once(
    server: Upstream, proxy: Proxy, record: StudyRecord, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    weights = [30, 1.5, 0.4, 0.4, 1, 1.5, 1]
    proxy.fate = lambda _request: draw.choices(FATES, weights)[0]
    troubles: list[str] = []
    delivery = Delivery(
        lambda: MlflowTracker(proxy.url, record, tmp_path), troubles.append, threads=2
    )
    trials = [Trial(tmp_path, record, number) for number in range(4)]
    for _ in range(3):
        for trial in trials:
            trial.train(1)
            delivery.post(trial.snapshot())
            time.sleep(draw.random() / 4)
    for trial in trials:
        delivery.post(finished(trial).snapshot("FINISHED"))
    report = study_report(tmp_path, arm("relu", 50.0, 60.0))
    assert delivery.finish("FINISHED", report, patience=60)
    assert len({fate for _, fate in proxy.seen}) >= 4, "what is tried here did not come about"
    assert_all_is_there_once(server, record, trials, tmp_path)


@pytest.mark.parametrize(
    "fate",
    [
        fate if fate == "late" else pytest.param(fate, marks=pytest.mark.long)
        for fate in FATES
        if fate not in ("pass", "slow")
    ],
)
def test_an_outage_is_told_once_and_all_is_delivered_after_it(
    server: Upstream,
    proxy: Proxy,
    record: StudyRecord,
    tmp_path: Path,
    fate: Fate,
    request: pytest.FixtureRequest,
) -> None:
    if fate not in ("hang", "late"):
        request.getfixturevalue("patient")
    troubles: list[str] = []
    delivery = Delivery(
        lambda: MlflowTracker(proxy.url, record, tmp_path), troubles.append, threads=2
    )
    trials = [Trial(tmp_path, record, number) for number in range(2)]
    for trial in trials:
        trial.train(1)
        delivery.post(trial.snapshot())
    wait_until(lambda: all(Delivered.read(trial.folder, record.uid) for trial in trials))
    for outage in range(1, 3):
        proxy.all_are(fate)
        asked = len(proxy.seen)
        began = time.monotonic()
        for trial in trials:
            trial.train(1)
            delivery.post(trial.snapshot())
        assert time.monotonic() - began < 1, "who posts does not wait for the server"
        wait_until(lambda outage=outage: len(troubles) == outage, seconds=20)
        wait_until(lambda asked=asked: len(proxy.seen) > asked + 2)
        proxy.all_are("pass")
        for trial in trials:
            wait_until(lambda trial=trial: _epochs(trial) == len(trial.history.epochs))
        wait_until(lambda: not delivery._failing)
    for trial in trials:
        delivery.post(finished(trial).snapshot("FINISHED"))
    assert delivery.finish("FINISHED", study_report(tmp_path), patience=30)
    assert len(troubles) == 2
    assert all("training goes on, and they wait in the home" in said for said in troubles)
    assert_all_is_there_once(server, record, trials, tmp_path)


def _epochs(trial: Trial) -> int:
    delivered = Delivered.read(trial.folder, trial.study)
    return delivered.epochs if delivered else 0


@pytest.mark.usefixtures("patient")
def test_one_kind_of_request_that_fails_is_one_outage(
    server: Upstream, proxy: Proxy, record: StudyRecord, tmp_path: Path
) -> None:
    """The disk of the artifacts is full: metrics go through meanwhile."""
    proxy.fate = lambda request: "error" if request.startswith("PUT") else "pass"
    troubles: list[str] = []
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    delivery = Delivery(lambda: _Begun(proxy.url, record, tmp_path), troubles.append, threads=2)
    one, two = (Trial(tmp_path, record, number) for number in range(2))
    delivery.post(finished(one).snapshot("FINISHED"))
    wait_until(lambda: troubles)
    for _ in range(EPOCHS - 1):
        two.train(1)
        delivery.post(two.snapshot())
        wait_until(lambda: _epochs(two) == len(two.history.epochs))
    assert not Delivered.is_settled(one.folder, record.uid, "FINISHED")
    assert len(troubles) == 1
    proxy.all_are("pass")
    delivery.post(finished(two).snapshot("FINISHED"))
    assert delivery.finish("FINISHED", None, patience=30)
    assert len(troubles) == 1
    assert_all_is_there_once(server, record, [one, two], tmp_path)


class _Begun(MlflowTracker):
    """Of a study whose file is there already."""

    def begin_study(self) -> None:
        pass


def test_short_epochs_are_sent_together(
    server: Upstream, proxy: Proxy, record: StudyRecord, tmp_path: Path
) -> None:
    delivery = Delivery(lambda: MlflowTracker(proxy.url, record, tmp_path), print)
    trial = Trial(tmp_path, record, 0)
    trial.train(1)
    delivery.post(trial.snapshot(), slot=0)
    wait_until(lambda: _epochs(trial) == 1)
    proxy.seen.clear()
    began = time.monotonic()
    for _ in range(EPOCHS - 2):
        trial.train(1)
        delivery.post(trial.snapshot(), slot=0, at_once=False)
        time.sleep(0.3)
    wait_until(lambda: _epochs(trial) == EPOCHS - 1)
    batches = [request for request, _ in proxy.seen if "log-batch" in request]
    assert len(batches) <= 1 + (time.monotonic() - began) / PACE
    delivery.post(finished(trial).snapshot("FINISHED"))
    assert delivery.finish("FINISHED", study_report(tmp_path), patience=30)
    assert_all_is_there_once(server, record, [trial], tmp_path)


def test_a_silent_server_is_not_waited_for_longer_than_said(
    proxy: Proxy, record: StudyRecord, tmp_path: Path
) -> None:
    for status, patience in (("KILLED", 1.0), ("FINISHED", 2.0)):
        folder = tmp_path / status
        folder.mkdir()
        proxy.all_are("pass")
        delivery = Delivery(lambda folder=folder: MlflowTracker(proxy.url, record, folder), print)
        trial = Trial(folder, record, 0)
        trial.train(1)
        delivery.post(trial.snapshot())
        wait_until(lambda trial=trial: _epochs(trial) == 1)
        proxy.all_are("hang")
        delivery.post(finished(trial).snapshot("FINISHED"))
        began = time.monotonic()
        assert not delivery.finish(status, study_report(folder), patience)
        # Once for what is left of the trials, once for the study's end.
        assert time.monotonic() - began < 2 * patience + SECONDS + 2


def test_a_killed_sweep_is_gone_in_time_however_much_still_arrives(
    proxy: Proxy, record: StudyRecord, tmp_path: Path
) -> None:
    proxy.all_are("slow")
    delivery = Delivery(lambda: MlflowTracker(proxy.url, record, tmp_path), print, threads=1)
    trials = [Trial(tmp_path, record, number) for number in range(4)]
    for trial in trials:
        delivery.post(finished(trial).snapshot("FINISHED"))
    began = time.monotonic()
    delivery.finish("KILLED", None, patience=1.5)
    assert time.monotonic() - began < 5


def test_a_run_that_somebody_deleted_is_made_whole_again(
    server: Upstream, record: StudyRecord, tmp_path: Path
) -> None:
    tracker = MlflowTracker(server.url, record, tmp_path)
    tracker.begin_study()
    deleted, lost = (Trial(tmp_path, record, number) for number in range(2))
    for trial in (deleted, lost):
        trial.train(2)
        tracker.deliver(trial.snapshot())
    before = Delivered.read(deleted.folder, record.uid)
    assert before is not None
    MlflowClient(server.url).delete_run(before.run_id)
    before.model_copy(update={"run_id": "0" * 32}).write(lost.folder)  # of another server's
    for trial in (deleted, lost):
        tracker.deliver(finished(trial).snapshot("FINISHED"))
    tracker.settle()
    tracker.end_study("FINISHED")
    assert_all_is_there_once(server, record, [deleted, lost], tmp_path)


@pytest.mark.usefixtures("patient")
def test_a_server_whose_disk_is_full_gets_everything_once_there_is_room(
    server: Upstream, record: StudyRecord, tmp_path: Path
) -> None:
    if server.disk is None:
        pytest.skip("needs unshare -rm, to mount a small file system for the server")
    troubles: list[str] = []
    delivery = Delivery(
        lambda: MlflowTracker(server.url, record, tmp_path), troubles.append, threads=2
    )
    trials = [Trial(tmp_path, record, number) for number in range(2)]
    for trial in trials:
        trial.train(1)
        delivery.post(trial.snapshot())
        wait_until(lambda trial=trial: _epochs(trial) == 1)
    filling = server.disk / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    for trial in trials:
        delivery.post(finished(trial).snapshot("FINISHED"))
    wait_until(lambda: troubles)
    time.sleep(0.5)  # a few attempts
    assert not Delivered.is_settled(trials[0].folder, record.uid, "FINISHED")
    filling.unlink()
    assert delivery.finish("FINISHED", study_report(tmp_path), patience=30)
    assert len(troubles) == 1
    assert_all_is_there_once(server, record, trials, tmp_path)


# From the outside


@pytest.mark.long
def test_a_study_is_trained_without_its_server_and_delivered_by_a_later_resume(
    server: Upstream, proxy: Proxy, tmp_path: Path
) -> None:
    command = Command(tmp_path / "home")
    command.patience = 2.0
    study = tmp_path / "lost.toml"
    study.write_text(STUDY)
    # It answers when it is asked whether it is there, and never again.
    proxy.fate = lambda request: "pass" if not proxy.seen else "error"
    few = ("--set", "matrix.seeds=1", "--set", "training.epochs=2", "--set", "data.train_limit=64")
    done = command.run("launch", study, "--name", "lost", "--tracking-uri", proxy.url, *few)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("records cannot be delivered") == 1
    assert "'adarelu-sweep resume lost' delivers them" in done.stderr
    assert "2 of 2 trials complete" in command.succeed("status", "lost")
    proxy.close()
    done = command.run("resume", "lost")
    assert done.returncode == 0, done.stderr
    assert "Warning: the tracking server" in done.stderr
    assert "what is trained waits in the home for it" in done.stderr
    proxy.open()
    proxy.all_are("pass")
    command.patience = None
    done = command.run("resume", "lost")
    assert done.returncode == 0, done.stderr
    assert "deliver" not in done.stderr
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("lost")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = Counter(run.data.tags["adarelu_sweep.kind"] for run in runs)
    assert kinds == {"study": 1, "trial": 2, "arm": 2}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.data.tags["adarelu_sweep.kind"] == "trial":
            assert steps(client, run.info.run_id) == [1, 2]
