"""What becomes of a trial in trouble: by its cause it goes on, waits, or fails; others go on."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState
from rich.console import Console

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.operating.sweep import Machine, resume
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.supervising.running import Screen
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.training.history import History
from tests.sweeps import STUDY, Command
from tests.test_cli import record_study
from tests.test_sweep import (
    assert_books_agree,
    epochs_done,
    numbers,
    optuna_trials,
    runs,
    workers_of,
)
from tests.waiting import wait_until

IN_TROUBLE = ["Crashing", "Hanging", "Raising", "Hungry", "Insatiable"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("retries")
    (folder / "trouble").mkdir()
    (folder / "study.toml").write_text(STUDY)
    command = Command(folder / "home", TROUBLE=str(folder / "trouble"))
    yield command
    command.close()


@pytest.fixture(scope="module")
def troubled(command: Command) -> "subprocess.CompletedProcess[str]":
    """One trial of each kind of trouble, and one of none, by two workers."""
    parts = [f"tests.troubled:{name}" for name in IN_TROUBLE]
    return command.run(
        *("launch", command.home.parent / "study.toml", "--workers", "2", "--name", "troubled"),
        *("--set", f"matrix.activation={['relu', *parts]}", "--set", "matrix.seeds=1"),
        *("--set", "execution.stall_timeout=5"),
    )


def arms(command: Command) -> dict[str, Any]:
    return {
        arm["activation"].removeprefix("tests.troubled:"): arm
        for arm in numbers(command, "troubled")
    }


def trial_of(command: Command, name: str) -> Any:
    trials = optuna_trials(command, "troubled")
    return next(t for t in trials if t.user_attrs["activation"].endswith(name))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "losses", "said"),
    [
        ("Crashing", 1, "exited with 3; it goes on in another"),
        ("Hanging", 1, "made no progress for 5 s and was killed; it goes on in another"),
        ("Hungry", 0, "it is tried again alone"),
    ],
)
def test_trouble_that_passes_leaves_no_trace_in_the_numbers(
    command: Command,
    troubled: "subprocess.CompletedProcess[str]",
    name: str,
    losses: int,
    said: str,
) -> None:
    trial = trial_of(command, name)
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs.get("losses", 0) == losses
    assert trial.user_attrs["attempts"] == 2
    assert any(f":{name}/" in line and said in line for line in troubled.stderr.splitlines())
    found = arms(command)
    for key in ("test_accuracy", "test_loss", "epochs"):
        assert found[name]["trials"][0][key] == found["relu"]["trials"][0][key]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "attempts", "reason"),
    [
        ("Raising", 1, "ArithmeticError: this does not add up"),
        ("Insatiable", 2, "with the device to itself: RuntimeError"),
    ],
)
def test_trouble_that_stays_fails_its_trial_with_the_traceback(
    command: Command,
    troubled: "subprocess.CompletedProcess[str]",
    name: str,
    attempts: int,
    reason: str,
    tmp_path: Path,
) -> None:
    assert troubled.returncode == 1
    assert "Traceback" not in troubled.stderr
    trial = trial_of(command, name)
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["attempts"] == attempts
    assert reason in trial.user_attrs["error"]
    if name == "Insatiable":
        assert "the host has" in trial.user_attrs["error"]
    run = next(r for r in runs(command, "troubled")[1] if r.data.tags["arm"].endswith(name))
    assert run.info.status == "FAILED"
    client = runs(command, "troubled")[2]
    kept = Path(client.download_artifacts(run.info.run_id, "traceback.txt", str(tmp_path)))
    assert "forward" in kept.read_text()


@pytest.mark.long
def test_what_failed_is_tried_again_on_request(
    command: Command, troubled: "subprocess.CompletedProcess[str]"
) -> None:
    """The same trials go on, from their checkpoints, once the cause is mended."""
    before = {trial.number for trial in optuna_trials(command, "troubled")}
    assert command.run("resume", "troubled").returncode == 1  # nothing is tried without request
    assert trial_of(command, "Raising").user_attrs["attempts"] == 1
    for name in IN_TROUBLE:
        (command.home.parent / "trouble" / name).touch()
    done = command.run("resume", "troubled", "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 1" in done.stderr
    assert {trial.number for trial in optuna_trials(command, "troubled")} == before
    found = arms(command)
    for arm in found.values():
        assert arm["trials"][0]["test_loss"] == found["relu"]["trials"][0]["test_loss"]
    _, children, client = runs(command, "troubled")
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.data.tags["outcome"] == "complete"
        assert "model" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.parametrize("machine", [Machine(workers=0), Machine(gpus="99")])
def test_a_refused_retry_changes_nothing(
    machine: Machine, study_file: Path, tmp_path: Path
) -> None:
    """Not even where all has been delivered, so that there would be nothing else to do."""
    home = Home(tmp_path / "home")
    record_study(home.root, study_file)
    ledger = Ledger(home.optuna_db).open("small")
    uid = ledger.record.uid
    for cell in cells(ledger.record.study):
        trial = ledger.fail(ledger.begin(cell, threads=1), "boom")
        folder = home.trial_folder("small", trial.number)
        folder.mkdir(parents=True)
        Delivered(study=uid, run_id=str(trial.number), status="FAILED").write(folder)
    Delivered(study=uid, run_id="study", status="FINISHED").write(home.study_folder("small"))

    screen = Screen(lambda *_: pytest.fail("it has run"), Console(quiet=True))
    with pytest.raises(UserError):
        resume("small", home, machine, screen, retry_failed=True)
    assert {trial.state for trial in ledger.trials()} == {TrialState.FAIL}
    _, ending = resume("small", home, machine, screen)
    assert ending.state == "failed"


@pytest.mark.long
def test_a_worker_that_is_asked_to_go_hands_its_trial_back(command: Command) -> None:
    name = "asked-to-go"
    process = command.start("launch", command.home.parent / "study.toml", "--name", name)
    wait_until(lambda: epochs_done(command, name) >= 1)
    (worker,) = workers_of(process.pid)
    worker.send_signal(signal.SIGTERM)
    psutil.wait_procs([worker], timeout=10)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("its worker was asked to go") == 1
    assert not any(t.user_attrs.get("losses") for t in optuna_trials(command, name))
    assert_books_agree(command, name, trials=4, epochs=3)


def test_a_dead_worker_is_known_within_5_seconds_and_in_both_books_within_10(
    command: Command,
) -> None:
    name = "dead"
    one = ("--set", "matrix.activation=relu", "--set", "matrix.seeds=1")
    long = ("--set", "training.epochs=500")
    study = command.home.parent / "study.toml"
    process = command.start("launch", study, "--name", name, *one, *long)
    wait_until(lambda: (command.home / "trials" / name / "00000/delivered.json").exists())
    (worker,) = workers_of(process.pid)
    worker.kill()
    killed = time.monotonic()
    wait_until(lambda: optuna_trials(command, name)[0].user_attrs.get("losses") == 1, seconds=5)

    def is_told() -> bool:
        """Whether MLflow has it that nobody trains the trial, or that the next worker does."""
        (run,) = runs(command, name)[1]
        return run.info.status == "KILLED" or run.data.tags["attempts"] == "2"

    wait_until(is_told, seconds=killed + 10 - time.monotonic())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.long
def test_a_full_disk_under_the_ledger_is_waited_out(command: Command) -> None:
    """Training goes on meanwhile; once there is room, the book is as if nothing had happened."""
    name = "full"
    process = command.start(
        *("launch", command.home.parent / "study.toml", "--name", name, "--workers", "1"),
        *("--set", "training.epochs=300", "--set", "matrix.seeds=1"),
    )
    assert process.stderr is not None
    wait_until(lambda: epochs_done(command, name) >= 2)
    supervisor = psutil.Process(process.pid)
    limits = supervisor.rlimit(psutil.RLIMIT_FSIZE)
    supervisor.rlimit(psutil.RLIMIT_FSIZE, (4096, limits[1]))
    said = ""
    while "waits until there is room" not in said:
        said = process.stderr.readline()
        assert said, "it ended"
    folder = command.home / "trials" / name / "00000"
    stuck = epochs_done(command, name)
    wait_until(lambda: len(History.read(folder).epochs) > stuck + 3)
    assert epochs_done(command, name) == stuck
    supervisor.rlimit(psutil.RLIMIT_FSIZE, limits)
    wait_until(lambda: epochs_done(command, name) > stuck + 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "waits until" not in err  # told once
    (trial,) = (t for t in optuna_trials(command, name) if t.intermediate_values)
    history = History.read(folder)
    assert trial.intermediate_values == {
        record.epoch: record.metrics["test/accuracy"] for record in history.epochs
    }
