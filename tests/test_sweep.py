"""Whole sweeps from the outside: the command, its processes, and both books afterwards."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.training.history import History
from tests.sweeps import STUDY, Command
from tests.waiting import wait_until

METRICS = {
    "train/loss",
    "train/accuracy",
    "test/loss",
    "test/accuracy",
    "lr",
    "epoch_seconds",
    "images_per_second",
    "probe/dead_fraction",
    "probe/sparsity",
}
BRANCHES = {"probe/negative_branch_rate", "probe/branch_change_rate", "probe/imbalance"}
ARTIFACTS = {
    "trial.json",
    "history.csv",
    "probes.csv",
    "confusion_matrix.csv",
    "model",
}


Done = subprocess.CompletedProcess[str]


def epochs_done(command: Command, name: str) -> int:
    """How many epochs the Optuna book has of a study."""
    path = command.home / "optuna.db"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            query = """
                select count(*) from trial_intermediate_values
                join trials using (trial_id) join studies using (study_id) where study_name = ?
            """
            return int(connection.execute(query, [name]).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def runs(command: Command, name: str) -> tuple[Run, list[Run], MlflowClient]:
    """The parent run, the child runs and the client, asked from the running server."""
    url = command.succeed("server", "start").strip()
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    kinds: dict[str, list[Run]] = {"study": [], "trial": [], "arm": []}
    for run in found:
        kinds[run.data.tags["adarelu_sweep.kind"]].append(run)
    (parent,) = kinds["study"]
    assert len({run.data.tags["arm"] for run in kinds["arm"]}) == len(kinds["arm"])
    return parent, kinds["trial"], client


def optuna_trials(command: Command, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{command.home}/optuna.db"
    return optuna.load_study(study_name=name, storage=storage).trials


def assert_books_agree(command: Command, name: str, trials: int, epochs: int) -> None:
    """Every trial once, COMPLETE and FINISHED, with every epoch's metrics once."""
    parent, children, client = runs(command, name)
    assert parent.info.status == "FINISHED"
    in_optuna = {str(trial.number): trial for trial in optuna_trials(command, name)}
    assert len(in_optuna) == len(children) == trials
    assert len({trial.user_attrs["cell"] for trial in in_optuna.values()}) == trials
    for run in children:
        trial = in_optuna[run.data.tags["optuna.trial_number"]]
        assert trial.state is TrialState.COMPLETE
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["outcome"] == "complete"
        assert run.data.metrics["test/accuracy"] == trial.value
        every_epoch, at_the_end = metrics_of(run)
        assert set(run.data.metrics) == every_epoch | at_the_end
        for key in every_epoch | at_the_end:
            steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
            wanted = [epochs] if key in at_the_end else list(range(1, epochs + 1))
            assert sorted(steps) == wanted, key
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == ARTIFACTS
        assert list(trial.intermediate_values) == list(range(1, epochs + 1))


def metrics_of(run: Run) -> tuple[set[str], set[str]]:
    """The metrics that a complete trial's run has at every epoch, and those of its last one."""
    if run.data.params["activation.name"] != "adarelu":
        return METRICS, set()
    sizes = {1, int(run.data.params["training.batch_size"]), 1000}
    return METRICS | BRANCHES, {f"test/accuracy_batch_{size}" for size in sizes}


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a supervisor."""
    children = psutil.Process(pid).children()
    return [child for child in children if "adarelu_sweep.launching.worker" in child.cmdline()]


def artifact(client: MlflowClient, run: Run, path: str, folder: Path) -> str:
    return Path(client.download_artifacts(run.info.run_id, path, str(folder))).read_text()


def numbers(command: Command, name: str) -> Any:
    return command.json("report", name, "--format", "json", "--no-figures", "--no-log")["arms"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One home for all studies of this file, so that its server starts once."""
    command = Command(tmp_path_factory.mktemp("sweeps") / "home")
    yield command
    command.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study's name that no other test has."""
    return re.sub(r"\W+", "-", request.node.name).strip("-")


@pytest.fixture(scope="module")
def undisturbed(command: Command) -> Done:
    """The study ``small``, run without interruption."""
    path = command.home.parent / "small.toml"
    path.write_text(STUDY)
    done = command.run("launch", path)
    assert done.returncode == 0, done.stderr
    return done


def test_a_study_ends_with_books_that_agree(command: Command, undisturbed: Done) -> None:
    assert_books_agree(command, "small", trials=4, epochs=3)
    assert command.json("status", "small", "--json") == {
        "study": "small",
        "state": "complete",
        "trials": {
            "total": 4,
            "complete": 4,
            "pruned": 0,
            "failed": 0,
            "running": 0,
            "waiting": 0,
        },
        "subset": "On a fixed subset of the data: at most 256 training images, "
        "at most 100 test images.",
    }
    assert "small" in [entry["study"] for entry in command.json("list", "--json")]


def test_what_a_run_holds(command: Command, undisturbed: Done, tmp_path: Path) -> None:
    parent, children, client = runs(command, "small")
    run = next(r for r in children if r.data.tags["arm"].endswith("/adarelu"))
    assert run.data.params["activation.name"] == "adarelu"
    assert run.data.params["network.width"] == "0.0625"
    assert run.data.params["training.optimizer.momentum"] == "0.9"
    assert run.data.params["data.train_limit"] == "256"
    assert run.data.params["training.eval_batch_size"] == "32"
    for tag in ("seed", "attempts", "host", "device", "threads", "version.torch", "subset"):
        assert run.data.tags[tag], tag
    trial = json.loads(artifact(client, run, "trial.json", tmp_path))
    assert trial["activation"]["label"] == "adarelu"
    rows = artifact(client, run, "confusion_matrix.csv", tmp_path).splitlines()
    confusion = np.loadtxt(rows, delimiter=",")
    assert confusion.sum() == 100
    assert np.trace(confusion) == run.data.metrics["test/accuracy"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"study.toml", "study.json", "report"}
    assert artifact(client, parent, "study.toml", tmp_path) == STUDY
    logged = json.loads(artifact(client, parent, "report/report.json", tmp_path))
    assert logged["arms"] == numbers(command, "small")
    assert "fixed subset" in parent.data.tags["mlflow.note.content"]


def test_the_report_is_the_last_epoch_bit_for_bit(command: Command, undisturbed: Done) -> None:
    by_cell = {trial.user_attrs["cell"]: trial for trial in optuna_trials(command, "small")}
    arms = numbers(command, "small")
    assert [arm["activation"] for arm in arms] == ["relu", "adarelu"]
    for arm in arms:
        assert arm["n"] == 2
        accuracies = []
        for trial in arm["trials"]:
            cell = f"digits/{arm['network']}/{arm['activation']}/{trial['seed']}"
            assert trial["test_accuracy"] == by_cell[cell].intermediate_values[3]
            assert trial["epochs"] == 3
            assert trial["diverged"] is False
            accuracies.append(trial["test_accuracy"])
        assert arm["mean"] == pytest.approx(np.mean(accuracies))
        assert arm["std"] == pytest.approx(np.std(accuracies, ddof=1))
    for style in ("table", "markdown", "csv"):
        text = command.succeed("report", "small", "--format", style, "--no-figures", "--no-log")
        assert "adarelu" in text
        assert "fixed subset" in text


def test_without_a_terminal_progress_is_plain_lines(undisturbed: Done) -> None:
    err = undisturbed.stderr
    assert "\x1b" not in err
    assert re.search(r"slot 0: digits/\S+/relu/0 epoch 1/3 +loss [\d.]+ +test accuracy", err)
    assert "on a fixed subset" in err.lower()
    assert "adarelu" in undisturbed.stdout
    assert "http://127.0.0.1:" in undisturbed.stdout


def on_a_terminal(command: Command, study_file: Path, name: str) -> tuple[int, int]:
    """Launch a long study on a terminal of its own; return its process and the other end."""
    arguments = [*("launch", str(study_file), "--name", name), "--set", "training.epochs=500"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(command.environment, TERM="xterm-256color", COLUMNS="160")
        os.execv(sys.executable, [sys.executable, "-m", "adarelu_sweep", *arguments])
    return pid, terminal


def test_on_a_terminal_progress_is_live_and_ctrl_c_stops(
    command: Command, study_file: Path, name: str
) -> None:
    """A real terminal, whose Ctrl-C goes to every process in its foreground."""
    pid, terminal = on_a_terminal(command, study_file, name)
    seen, status, asked = "", None, False
    deadline = time.monotonic() + 120
    try:
        while status is None:
            assert time.monotonic() < deadline, seen
            with suppress(OSError):  # the terminal closes with its last process
                seen += os.read(terminal, 65536).decode(errors="replace")
            if not asked and re.search(r"epoch [2-9]/500 .*test accuracy", seen):
                os.write(terminal, b"\x03")
                asked = True
            ended, state = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(state) if ended else None
    finally:
        os.close(terminal)  # which ends what is left on it
    assert status == 130
    assert re.search(r"0/4 trials", seen)
    assert re.search(r"about \d+:\d\d:\d\d left", seen)
    assert "images/s" in seen
    assert "stopping after the step in hand" in seen
    assert command.json("status", name, "--json")["state"] == "interrupted"


@pytest.mark.long
def test_a_terminal_that_is_closed_stops_in_order(
    command: Command, study_file: Path, name: str
) -> None:
    pid, terminal = on_a_terminal(command, study_file, name)
    seen = ""
    while not re.search(r"epoch [2-9]/500 .*test accuracy", seen):
        seen += os.read(terminal, 65536).decode(errors="replace")
    os.close(terminal)
    _, state = wait_until(lambda: ended if (ended := os.waitpid(pid, os.WNOHANG))[0] else None)
    assert os.waitstatus_to_exitcode(state) == 128 + signal.SIGHUP
    log = command.succeed("logs", name)
    assert "stopping after the step in hand" in log
    assert "the study is interrupted" in log
    states = {trial.state for trial in optuna_trials(command, name)}
    assert states == {TrialState.WAITING}
    (trial,) = (command.home / "trials" / name).glob("0*")
    # What the worker had when it stopped, and not when it was killed some time later.
    assert len(History.read(trial).epochs) == epochs_done(command, name)


@pytest.mark.long
def test_what_cannot_be_shown_does_not_end_a_sweep(
    command: Command, study_file: Path, name: str
) -> None:
    with Path("/dev/full").open("w") as full:
        process = command.start("launch", study_file, "--name", name, stderr=full)
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "adarelu" in out
    assert_books_agree(command, name, trials=4, epochs=3)


@pytest.mark.long
def test_a_complete_study_is_not_launched_again_and_resuming_it_does_nothing(
    command: Command, undisturbed: Done
) -> None:
    before = numbers(command, "small")
    again = command.run("launch", command.home.parent / "small.toml")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "resume small" in again.stderr
    resumed = command.run("resume", "small")
    assert resumed.returncode == 0
    assert "started" not in resumed.stderr
    assert "adarelu" in resumed.stdout
    assert numbers(command, "small") == before


@pytest.mark.long
def test_interrupted(command: Command, undisturbed: Done, study_file: Path, name: str) -> None:
    """Stopped by Ctrl-C and resumed: the numbers of an undisturbed run, to the last bit."""
    process = command.start("launch", study_file, "--name", name)
    wait_until(lambda: epochs_done(command, name) >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"resume {name}" in err
    assert command.json("status", name, "--json")["state"] == "interrupted"
    states = Counter(trial.state for trial in optuna_trials(command, name))
    assert states.keys() <= {TrialState.WAITING, TrialState.COMPLETE}
    assert command.run("resume", name).returncode == 0
    assert numbers(command, name) == numbers(command, "small")
    assert_books_agree(command, name, trials=4, epochs=3)


@pytest.mark.long
def test_an_interrupted_study_is_killed_in_mlflow_and_runs_again_on_resume(
    command: Command, study_file: Path, name: str
) -> None:
    process = command.start("launch", study_file, "--name", name, "--set", "training.epochs=500")
    wait_until(lambda: (command.home / "trials" / name / "00000/delivered.json").exists())
    assert command.json("status", name, "--json")["state"] == "running"
    process.send_signal(signal.SIGHUP)  # as when its terminal is closed
    process.communicate(timeout=20)
    assert process.returncode == 129
    parent, children, _ = runs(command, name)
    assert parent.info.status == "KILLED"
    assert [run.info.status for run in children] == ["KILLED"]
    process = command.start("resume", name)
    wait_until(lambda: runs(command, name)[1][0].info.status == "RUNNING")
    parent, children, _ = runs(command, name)
    assert parent.info.status == "RUNNING"
    assert children[0].data.tags["attempts"] == "2"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert runs(command, name)[0].info.status == "KILLED"


@pytest.mark.long
def test_runs_that_a_killed_supervisor_left_running_are_ended_by_the_next(
    command: Command, study_file: Path, name: str
) -> None:
    arguments = ("--workers", "2", "--set", "training.epochs=500")
    process = command.start("launch", study_file, "--name", name, *arguments)
    trials = [command.home / "trials" / name / number for number in ("00000", "00001")]
    wait_until(lambda: all((trial / "delivered.json").exists() for trial in trials))
    process.kill()
    process.communicate()
    assert {run.info.status for run in runs(command, name)[1]} == {"RUNNING"}
    # One slot takes up one of the two trials; the other one waits.
    process = command.start("resume", name, "--workers", "1")
    wait_until(lambda: "KILLED" in {run.info.status for run in runs(command, name)[1]})
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    parent, children, _ = runs(command, name)
    assert [run.info.status for run in (parent, *children)] == ["KILLED"] * 3
    assert {trial.state for trial in optuna_trials(command, name)} == {TrialState.WAITING}
    for run in children:
        assert run.data.tags["version.torch"]


def test_checkpoints_of_a_study_that_is_gone_are_not_taken_up(
    command: Command, study_file: Path, name: str
) -> None:
    folder = command.home / "trials" / name / "00000"
    folder.mkdir(parents=True)
    refused = command.run("launch", study_file, "--name", name)
    assert refused.returncode == 2
    assert "move them away" in refused.stderr
    assert command.run("status", name).returncode == 2


@pytest.mark.long
def test_two_workers_give_the_numbers_of_their_threads(
    command: Command, study_file: Path, name: str
) -> None:
    """The threads are part of a trial: a resume keeps them, whatever it says of slots."""
    one, two = f"{name}-1", f"{name}-2"
    command.succeed("launch", study_file, "--name", one, "--workers", "2")
    process = command.start("launch", study_file, "--name", two, "--workers", "2")
    wait_until(lambda: epochs_done(command, two) >= 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    command.succeed("resume", two)
    assert numbers(command, one) == numbers(command, two)
    assert {trial.user_attrs["threads"] for trial in optuna_trials(command, two)} == {
        max(1, available_cores() // 2)
    }


@pytest.mark.long
def test_a_running_study_is_refused_to_others(
    command: Command, study_file: Path, name: str
) -> None:
    arguments = ("launch", study_file, "--name", name, "--set", "training.epochs=500")
    process = command.start(*arguments)
    wait_until(lambda: epochs_done(command, name) >= 1)
    resume = command.run("resume", name)
    assert str(process.pid) in resume.stderr
    for refused in (resume, command.run(*arguments)):
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.long
def test_an_exception_fails_its_trial_alone(
    command: Command, study_file: Path, name: str, tmp_path: Path
) -> None:
    """A data set that looks right from its header and is not: the other arm goes on."""
    images = np.zeros((64, 32, 32), np.uint8)
    labels = np.arange(64) % 4
    bad = {"x_train": images, "y_train": labels - 1, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "bad.npz", **bad)
    done = command.run(
        *("launch", study_file, "--name", name, "--data-dir", tmp_path),
        *("--set", 'matrix.dataset=["bad","digits"]'),
        *("--set", "matrix.activation=relu", "--set", "matrix.seeds=1"),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    status = command.json("status", name, "--json")
    assert status["state"] == "failed"
    assert status["trials"]["failed"] == 1
    assert status["trials"]["complete"] == 1
    parent, children, client = runs(command, name)
    assert parent.info.status == "FINISHED"
    by_dataset = {run.data.params["dataset"]: run for run in children}
    assert by_dataset["digits"].info.status == "FINISHED"
    assert by_dataset["bad"].info.status == "FAILED"
    assert by_dataset["bad"].data.tags["outcome"] == "failed"
    files = {file.path for file in client.list_artifacts(by_dataset["bad"].info.run_id)}
    assert files == {"trial.json", "traceback.txt"}
    assert [trial.state.name for trial in optuna_trials(command, name)] == ["FAIL", "COMPLETE"]
    assert command.run("resume", name).returncode == 1
    report = command.json("report", name, "--format", "json", "--no-figures", "--no-log")
    assert [arm["n"] for arm in report["arms"]] == [0, 1]
    assert report["arms"][0]["mean"] is None


@pytest.mark.long
def test_a_diverged_trial_is_a_result(command: Command, study_file: Path, name: str) -> None:
    command.succeed(
        *("launch", study_file, "--name", name, "--set", "training.optimizer.lr=1e30"),
        *("--set", "matrix.activation=relu", "--set", "matrix.seeds=1"),
    )
    (arm,) = numbers(command, name)
    (trial,) = arm["trials"]
    assert trial["diverged"] is True
    assert trial["epochs"] == 1
    assert trial["test_loss"] is None
    assert arm["mean"] == trial["test_accuracy"]
    _, (run,), _ = runs(command, name)
    assert run.info.status == "FINISHED"
    assert run.data.tags["outcome"] == "diverged"
    assert optuna_trials(command, name)[0].state is TrialState.COMPLETE
