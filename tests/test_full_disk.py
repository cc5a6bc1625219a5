"""Commands on a full disk: a small file system of its own, full to the last byte."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.operating.sweep import Machine, resume
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.supervising.running import Screen
from tests.test_cli import record_study

MOUNT = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'

# A home on such a disk with studies of which something is there; what the commands say, as JSON.
HOME = """
import json, sys
from contextlib import suppress
from pathlib import Path
from adarelu_sweep.home import Home
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.recording.ledger import Ledger
from tests.sweeps import STUDY, Command
from tests.test_cli import record_study

disk, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
home, study_file = Home(disk / "home"), disk / "small.toml"
study_file.write_text(STUDY)
for name in ("small", "other"):
    record_study(home.root, study_file, name)
    ledger = Ledger(home.optuna_db)
    study = ledger.open(name)
    for cell in cells(study.record.study):
        folder = home.trial_folder(name, study.begin(cell, threads=1).number)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(50_000))
    ledger.close()
with (disk / "fill").open("wb", buffering=0) as fill, suppress(OSError):
    while True:
        fill.write(bytes(4096))
command = Command(home.root)
done = [command.run(*arguments) for arguments in commands]
(disk / "fill").unlink()
print(json.dumps([(one.returncode, one.stdout, one.stderr) for one in done]))
print(json.dumps(command.json("list", "--json")))
print(json.dumps([str(path.relative_to(home.root)) for path in home.root.glob("*/*/*")]))
"""


def on_a_full_disk(folder: Path, *commands: tuple[str, ...]) -> tuple[list[list[str]], ...]:
    """Return what commands ended with and said, then the studies, and what is in the home."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder]).returncode:
        pytest.skip("no file system of one's own can be had here")
    python = [sys.executable, "-c", HOME, str(folder), json.dumps(commands)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, str(folder), *python],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    said, studies, files = map(json.loads, done.stdout.splitlines())
    return said, studies, files


def test_on_a_full_disk_a_command_says_so_and_changes_nothing(tmp_path: Path) -> None:
    study_file = str(tmp_path / "small.toml")
    commands = [("status", "small"), ("list",), ("resume", "small"), ("launch", study_file)]
    said, studies, files = on_a_full_disk(tmp_path, *commands)
    for command, (code, _, error) in zip(commands, said, strict=True):
        assert (code, len(error.splitlines())) == (2, 1), (command, error)
        assert f"the disk that holds {tmp_path}/home" in error
        assert "is full" in error
        assert "make room and repeat the command" in error
    assert [study["study"] for study in studies] == ["small", "other"]
    assert len(files) == 2 * 4


def test_a_study_is_deleted_on_a_full_disk_to_make_room(tmp_path: Path) -> None:
    said, studies, files = on_a_full_disk(tmp_path, ("delete", "small", "--yes"), ("list",))
    assert [code for code, _, _ in said] == [0, 0], said
    assert [study["study"] for study in studies] == ["other"]
    assert len(files) == 4
    assert all(file.startswith("trials/other/") for file in files)


def test_a_resume_whose_first_write_finds_no_room(study_file: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    record_study(home.root, study_file)
    ledger = Ledger(home.optuna_db).open("small")  # kept open: nothing has to be made anew
    ledger.begin(next(cells(ledger.record.study)), threads=1)
    screen = Screen(lambda *_: pytest.fail("it has run"), Console(quiet=True))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # the lease, but no page
    try:
        with pytest.raises(UserError, match="make room and repeat the command"):
            resume("small", home, Machine(), screen)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
