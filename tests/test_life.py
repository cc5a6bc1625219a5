"""Life around a sweep: in the background, watched, stopped, added to, and deleted."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner
from mlflow.entities import LoggedModelOutput, ViewType
from mlflow.tracking import MlflowClient

from adarelu_sweep.cli import watching
from adarelu_sweep.cli.background import run_in_background
from adarelu_sweep.cli.studies import status_command
from adarelu_sweep.cli.sweeps import launch_command
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.operating import detaching
from adarelu_sweep.operating.deleting import Deletion
from adarelu_sweep.operating.following import find_log, read_log
from adarelu_sweep.operating.stopping import stop
from adarelu_sweep.recording.lease import Holder, Lease
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.supervising.log import open_log
from adarelu_sweep.tracking.database import database_of
from adarelu_sweep.tracking.experiment import STUDY_TAG
from tests.sweeps import Command
from tests.test_ledger import record
from tests.waiting import wait_until

STUDY = """
name = "life"
[matrix]
dataset = "digits"
network = { name = "vgg16_bn", width = 0.0625 }
activation = "relu"
seeds = 1
[data]
train_limit = 64
test_limit = 32
[training]
epochs = 1
optimizer = "sgd"
[report]
figures = false
register_model = false
"""
SECRET = "s3cret-of-the-tracking-server"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One home for all of this file, so that its server starts once."""
    command = Command(tmp_path_factory.mktemp("life") / "home")
    yield command
    if (command.home / "optuna.db").exists():
        for name in Ledger(command.home / "optuna.db").names():
            command.run("stop", name, "--now")
    command.close()


@pytest.fixture(scope="module")
def client(command: Command) -> MlflowClient:
    return MlflowClient(command.succeed("server", "start").strip())


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "life.toml"
    path.write_text(STUDY)
    return path


def holder(command: Command, name: str) -> Holder | None:
    return Lease(command.home / "trials" / name, name).holder()


def answered(command: Command, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal of its own, answer its question, and return what it said."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        python = [sys.executable, "-m", "adarelu_sweep", *arguments]
        os.execve(python[0], python, command.environment)
    said = b""
    with suppress(OSError):  # what reading gives on Linux once the other end is closed
        while b"[y/N]" not in said:
            said += os.read(terminal, 4096)
        os.write(terminal, answer.encode())
        while more := os.read(terminal, 4096):
            said += more
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return code, said.decode()


# In the background


@pytest.mark.long
def test_a_study_in_the_background(
    command: Command, client: MlflowClient, study_file: Path
) -> None:
    address = client.tracking_uri.replace("//", f"//me:{SECRET}@")
    command.environment["MLFLOW_TRACKING_URI"] = address
    long = ["--name", "long", "--set", "training.epochs=100000"]
    out = command.succeed("launch", study_file, "--detach", *long)
    del command.environment["MLFLOW_TRACKING_URI"]
    running = holder(command, "long")
    assert running is not None
    assert out.splitlines() == [
        f"long runs in the background, process {running.pid}",
        "follow it with: adarelu-sweep logs long -f",
        "stop it with:   adarelu-sweep stop long",
    ]
    assert os.getsid(running.pid) == running.pid
    process = psutil.Process(running.pid)
    assert process.terminal() is None
    log = command.home / "logs" / "long" / "supervisor.log"
    assert log.stat().st_mode & 0o777 == 0o600
    for output in (1, 2):
        assert Path(f"/proc/{running.pid}/fd/{output}").readlink() == log

    watching = command.start("status", "long", "--watch", "--json")
    following = command.start("logs", "long", "-f")
    interrupted = command.start("logs", "long", "--follow", "--lines", "0")
    wait_until(lambda: " epoch 3/" in log.read_text())
    workers = [
        child for child in process.children() if "launching.worker" in " ".join(_arguments(child))
    ]
    assert workers
    for worker in workers:  # the rest is not about training
        worker.suspend()
    shown = [line for p in psutil.process_iter() for line in _arguments(p)]
    assert not [line for line in shown if SECRET in line]

    state = command.json("status", "long", "--json")
    assert state["state"] == "running"
    where = {"host": running.host, "pid": running.pid, "since": running.since}
    assert state["runs_on"] == where
    assert f"(process {running.pid} on {running.host}, since " in command.succeed("list")
    for again in (("launch", study_file, "--name", "long"), ("resume", "long", "--detach")):
        done = command.run(*again)
        assert done.returncode == 2
        assert f"'long' is being run by process {running.pid} on {running.host}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    refused = command.run("delete", "long", "--yes")
    assert (refused.returncode, refused.stderr.count("'adarelu-sweep stop long'")) == (2, 1)

    assert "training.epochs" not in command.succeed("logs", "long", "--worker", "0")
    assert command.run("logs", "long", "--worker", "7").stderr == (
        "Error: study 'long' has no log of a worker 7; there are: 0\n"
    )
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(30) == 130
    assert "Traceback" not in interrupted.communicate()[1]

    for worker in workers:
        worker.resume()
    stopped = command.run("stop", "long")
    assert stopped.returncode == 0
    assert stopped.stdout.startswith("long: interrupted, 0 of 1 trials complete, 1 waiting")
    assert holder(command, "long") is None
    followed = following.communicate(timeout=60)[0]
    assert following.returncode == 0
    assert followed.endswith(log.read_text()[-200:])
    assert "Go on with: adarelu-sweep resume long" in followed
    states = [json.loads(line) for line in watching.communicate(timeout=60)[0].splitlines()]
    assert watching.returncode == 0
    assert [states[0]["state"], states[-1]["state"]] == ["running", "interrupted"]
    assert states == [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]]
    again = command.run("stop", "long")
    assert (again.returncode, again.stderr) == (0, "long is not being run\n")


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(
    ("arguments", "address", "said"),
    [
        (["--gpus", "99"], "", "GPU"),
        (["--workers", "0"], "", "--workers"),
        (["--pack", "65"], "", "--pack 65: give auto, or a number from 1 to 64"),
        ([], f"http://me:{SECRET}@127.0.0.1:1", "does not answer"),
    ],
)
def test_what_cannot_run_is_refused_in_the_foreground(
    tmp_path: Path, study_file: Path, arguments: list[str], address: str, said: str
) -> None:
    command = Command(tmp_path / "home", MLFLOW_TRACKING_URI=address)
    done = command.run("launch", study_file, "--detach", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stderr
    assert not (command.home / "trials").exists()


def test_an_address_without_its_password_is_handed_over_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the foreground, where it is found in the environment."""
    whole = f"https://me:{SECRET}@127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    told: list[Any] = []

    def start(*arguments: Any) -> tuple[int, None]:
        told[:] = arguments
        return 1, None

    monkeypatch.setattr(detaching, "start_detached", start)
    context = click.Context(launch_command, info_name="launch")
    run_in_background(context, "life", ["life.toml"], {}, "https://127.0.0.1:1")
    _, _, line, environment = told
    assert environment["MLFLOW_TRACKING_URI"] == whole
    assert SECRET not in " ".join(line)


# Logs


def test_a_full_disk_does_not_stop_what_is_logged(tmp_path: Path) -> None:
    full = tmp_path / "supervisor.log"
    full.symlink_to("/dev/full")
    for path in (full, tmp_path / "supervisor.log" / "below.log"):  # and one that cannot be opened
        with open_log(path) as log:
            for _ in range(3):
                print("x" * 10_000, file=log, flush=True)
    with open_log(tmp_path / "logs" / "real.log") as log:
        print("nü", file=log)
        assert (tmp_path / "logs" / "real.log").read_text() == "nü\n"


def test_reading_a_log_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    assert list(read_log(path, 2)) == ["two\n", "three\n"]
    assert list(read_log(path, 0)) == []
    looks = iter(["four\n", "fi"])

    def goes_on() -> bool:
        piece = next(looks, None)
        with path.open("a") as file:
            file.write(piece or "ve\n")
        return piece is not None

    assert "".join(read_log(path, 1, goes_on)) == "three\nfour\nfive\n"


def test_a_study_without_logs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'mine' has no log yet: there is one once it is run"):
        find_log(Home(tmp_path), "mine", None)
    with pytest.raises(UserError, match="'mine' has no log of a worker 1; there are: none yet"):
        find_log(Home(tmp_path), "mine", 1)


# Stopping


def test_a_study_is_watched_while_it_grows_and_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    ledger = Ledger(home.optuna_db)
    ledger.create(record(seeds=3))
    events = iter([lambda: ledger.extend(record(seeds=5)), lambda: ledger.delete("mine")])
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=lambda _: next(events)()))
    arguments = ["mine", "--watch", "--json", "--home", str(tmp_path)]
    with Lease(home.study_folder("mine"), "mine"):
        done = CliRunner().invoke(status_command, arguments)
    before, after = (json.loads(line)["trials"]["total"] for line in done.stdout.splitlines())
    assert after > before
    assert isinstance(done.exception, UserError), done.exception
    assert "unknown study 'mine'" in str(done.exception)


def test_only_the_holder_of_the_lease_is_signalled(tmp_path: Path) -> None:
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        lease = Lease(tmp_path, "mine")
        other = replace(
            Holder.this_process(),
            pid=sleeping.pid,
            process_started=psutil.Process(sleeping.pid).create_time(),
        )
        said: list[str] = []
        # It has the process id, and was started at that moment, but does not hold the lease.
        (tmp_path / "lease.json").write_text(json.dumps(asdict(other)))
        assert not stop(lease, "mine", True, said.append)
        with lease:
            (tmp_path / "lease.json").write_text(
                json.dumps(asdict(replace(other, process_started=other.process_started - 3600)))
            )
            assert not stop(lease, "mine", True, said.append)
            (tmp_path / "lease.json").write_text(json.dumps(asdict(replace(other, host="far"))))
            with pytest.raises(UserError, match=rf"process {sleeping.pid} on far: stop it there"):
                stop(Lease(tmp_path, "mine"), "mine", True, said.append)
        assert not said
        assert sleeping.poll() is None
    finally:
        sleeping.kill()
        sleeping.wait()


# Adding and deleting


@pytest.mark.long
def test_a_study_is_added_to_and_deleted_for_good(
    command: Command, client: MlflowClient, study_file: Path
) -> None:
    command.succeed("launch", study_file)
    assert command.json("status", "life", "--json")["trials"]["total"] == 1
    refused = command.run("resume", "life", "--set", "training.epochs=2")
    assert refused.returncode == 2
    assert "training.epochs: 1 -> 2" in refused.stderr
    study_file.write_text(STUDY.replace("seeds = 1", "seeds = 2"))
    out = command.succeed("resume", "life", "--study", study_file, "--set", "execution.keep=none")
    assert "relu         2 " in out
    experiment = client.get_experiment_by_name("life")
    assert experiment is not None
    id_ = experiment.experiment_id
    runs = client.search_runs([id_], "tags.`adarelu_sweep.kind` = 'trial'")
    assert sorted(run.data.params["seed"] for run in runs) == ["0", "1"]
    (parent,) = client.search_runs([id_], "tags.`adarelu_sweep.kind` = 'study'")
    kept = Path(client.download_artifacts(parent.info.run_id, "study.toml"))
    assert kept.read_text() == study_file.read_text()

    # Somebody else's run in an experiment of this name, and a model that is registered.
    theirs = client.create_run(id_).info.run_id
    client.log_text(theirs, "kept", "note.txt")
    client.create_registered_model("life")
    source = f"runs:/{runs[0].info.run_id}/model"
    client.create_model_version("life", source, runs[0].info.run_id)
    # As ``Model.log`` does it, in the default experiment.
    model = client.create_logged_model("0", "classifier", runs[0].info.run_id).model_id
    client.log_outputs(runs[0].info.run_id, [LoggedModelOutput(model, step=1)])

    code, said = answered(command, "n\n", "delete", "life")
    assert (code, said.rstrip().endswith("Nothing is deleted.")) == (1, True)
    assert "study 'life': 2 trials, 4 runs in MLflow, " in said
    code, said = answered(command, "y\n", "delete", "life")
    assert code == 0
    assert "the experiment 'life' stays in MLflow: it holds runs of others" in said
    left = client.search_runs([id_], "", ViewType.ALL)
    assert [run.info.run_id for run in left] == [theirs]
    assert [path.name for path in (command.home / "artifacts" / id_).iterdir()] == [theirs]
    assert not client.search_registered_models("name = 'life'")
    assert not client.search_logged_models(["0"])
    for folder in ("trials", "logs", "reports"):
        assert not (command.home / folder / "life").exists()
    assert command.run("status", "life").returncode == 2


@pytest.mark.long
def test_a_deleted_study_is_launched_again_and_killed(
    command: Command, client: MlflowClient, study_file: Path
) -> None:
    """As long as a supervisor does not answer, ``stop --now`` has to end it; its workers follow."""
    command.succeed("launch", study_file, "--detach", "--set", "training.epochs=99999")
    running = holder(command, "life")
    assert running is not None
    process = psutil.Process(running.pid)
    wait_until(
        lambda: [c for c in process.children() if "launching.worker" in " ".join(c.cmdline())]
    )
    workers = process.children()
    process.suspend()
    done = command.run("stop", "life", "--now")
    assert done.returncode == 0
    assert "killing process" in done.stderr
    assert done.stdout.startswith("life: interrupted")
    psutil.wait_procs(workers, timeout=30)
    assert not [worker for worker in workers if worker.is_running()]

    experiment = client.get_experiment_by_name("life")
    assert experiment is not None
    before = client.search_runs([experiment.experiment_id])
    assert before
    assert command.succeed("delete", "life", "--yes", "--keep-runs").startswith("deleted study")
    after = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in after] == [run.info.run_id for run in before]
    assert not (command.home / "trials" / "life").exists()


@pytest.mark.long
def test_a_study_of_another_server_is_deleted_as_there(
    command: Command, client: MlflowClient, study_file: Path
) -> None:
    """It was launched with an address; without the server there nothing is deleted."""
    port = client.tracking_uri.rpartition(":")[2]
    command.succeed("server", "start", "--port", port)
    address = ("--tracking-uri", client.tracking_uri)
    command.succeed("launch", study_file, "--name", "elsewhere", *address)
    command.succeed("server", "stop")
    done = command.run("delete", "elsewhere", "--yes")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "does not answer" in done.stderr
    assert command.json("status", "elsewhere", "--json")["state"] == "complete"
    command.succeed("server", "start", "--port", port)
    done = command.run("delete", "elsewhere", "--yes")
    assert done.returncode == 0, done.stderr
    assert "'mlflow gc' there" in done.stderr
    experiment = client.get_experiment_by_name("elsewhere")
    assert experiment is not None
    assert experiment.lifecycle_stage == "deleted"


def test_a_deletion_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ledger = Ledger(home.optuna_db)
    for name in ("mine", "mine2"):
        ledger.create(record(name)).begin(_first_cell(ledger, name), threads=1)
    ledger.begin_deletion("mine")
    assert ledger.names() == ["mine2"]
    command = Command(tmp_path)
    nobody = command.run("delete", "mine")
    assert (nobody.returncode, nobody.stderr.count("give --yes")) == (2, 1)
    finish = "finish it with 'adarelu-sweep delete mine'"
    assert finish in command.run("resume", "mine").stderr
    with pytest.raises(UserError, match=finish):
        ledger.refuse_existing("mine")
    (home.study_folder("mine") / "00000").mkdir(parents=True)
    assert Deletion("mine", home, keep_runs=False).carry_out() is None
    assert not home.study_folder("mine").exists()
    assert len(ledger.open("mine2").trials()) == 1
    ledger.create(record())
    assert ledger.open("mine").trials() == []


def test_what_came_while_a_user_was_asked_is_deleted_too(tmp_path: Path) -> None:
    home = Home(tmp_path)
    Ledger(home.optuna_db).create(record())
    client = MlflowClient(database_of(home), database_of(home))
    experiment = client.create_experiment("mine", home.artifacts.as_uri())
    theirs = client.create_run(experiment)  # because of which the experiment stays
    asked = Deletion("mine", home, keep_runs=False)
    client.create_run(experiment, tags={STUDY_TAG: record().uid})
    asked.carry_out()
    (left,) = client.search_runs([experiment], "", ViewType.ALL)
    assert left.info.run_id == theirs.info.run_id


def test_of_two_who_delete_a_study_the_second_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ledger = Ledger(home.optuna_db)
    ledger.create(record())
    first, second, third = (Deletion("mine", home, keep_runs=True) for _ in range(3))
    first.carry_out()
    with pytest.raises(UserError, match="unknown study 'mine'"):
        second.carry_out()
    assert not home.study_folder("mine").exists()
    ledger.create(record().model_copy(update={"uid": "another"}))
    with pytest.raises(UserError, match="launched anew meanwhile"):
        third.carry_out()
    assert ledger.names() == ["mine"]


def _first_cell(ledger: Ledger, name: str) -> Any:
    from adarelu_sweep.studies.plan import cells

    return next(cells(ledger.open(name).record.study))
