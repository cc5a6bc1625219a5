"""A whole study in packs: the numbers and records of one whose trials were trained one by one."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.books import Books, differences
from tests.sweeps import STUDY, Command
from tests.test_sweep import epochs_done, numbers, optuna_trials, runs
from tests.waiting import wait_until

ONE_ARM = ("--set", "matrix.seeds=4", "--set", "matrix.activation=adarelu")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "study.toml").write_text(STUDY)
    command = Command(tmp_path / "home")
    yield command
    command.close()


@pytest.mark.long
def test_packs_do_not_show_in_the_numbers(command: Command, tmp_path: Path) -> None:
    """Interrupted, and resumed with packs of another size."""
    study = tmp_path / "study.toml"
    command.succeed("launch", study, "--name", "alone", *ONE_ARM)
    process = command.start("launch", study, "--name", "packed", "--pack", "3", *ONE_ARM)
    wait_until(lambda: epochs_done(command, "packed") >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    begun = [trial.user_attrs["tags"]["pack"] for trial in optuna_trials(command, "packed")]
    assert begun == ["3"] * 3
    command.succeed("resume", "packed", "--pack", "2")
    assert numbers(command, "packed") == numbers(command, "alone")
    found = differences(Books(command.home, "packed"), Books(command.home, "alone"))
    assert not found, "\n".join(found)
    tags = [run.data.tags for run in runs(command, "packed")[1]]
    assert len(tags) == 4
    assert "2" in {own["pack"] for own in tags}
