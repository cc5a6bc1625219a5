"""Data sets prepared beside the workers: the same file, without torch, and in nobody's way."""

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from adarelu_sweep.datasets import prepared
from adarelu_sweep.datasets.prepared_file import is_lacking, prepare
from adarelu_sweep.operating.preparing import prepared_meanwhile
from tests.test_datasets import some, write_idx
from tests.test_prepared import as_in_files, is_mapped, place
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "own.npz", **some())
    return tmp_path


def children() -> list[psutil.Process]:
    named = "adarelu_sweep.datasets.preparing"
    return [one for one in psutil.Process().children() if named in one.cmdline()]


def test_it_writes_what_a_worker_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(folder / "MNIST" / "raw", some(shape=(6, 7)))
    for name in ("own", "mnist"):
        prepared.load(name, folder)
        by_worker = place(folder, name).read_bytes()
        place(folder, name).unlink()
        assert is_lacking(name, folder)
        with prepared_meanwhile([name], folder):
            wait_until(lambda name=name: not is_lacking(name, folder))
        assert place(folder, name).read_bytes() == by_worker
    monkeypatch.setattr(prepared, "read", None)
    for name in ("own", "mnist"):
        assert is_mapped(prepared.load(name, folder).x_train, place(folder, name))


def test_nothing_is_started_where_there_is_nothing_to_do(folder: Path) -> None:
    prepare("own", folder)
    (folder / "broken.npz").write_bytes(b"no archive")
    with prepared_meanwhile(["own", "digits", "broken", "absent"], folder):
        assert children() == []


def test_a_changed_original_is_prepared_again(folder: Path) -> None:
    prepare("own", folder)
    np.savez(folder / "own.npz", **some(train=13))
    assert is_lacking("own", folder)
    prepare("own", folder)
    assert not is_lacking("own", folder)
    assert as_in_files(prepared.load("own", folder), folder)


def test_who_is_not_done_in_the_end_is_ended(folder: Path) -> None:
    (folder / "prepared").mkdir()
    with (folder / "prepared" / ".own.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with prepared_meanwhile(["own"], folder):
            (child,) = children()
            wait_until(lambda: child.nice() == 5)  # it has come to its work
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert not child.is_running()
    assert is_lacking("own", folder)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it on Linux")
def test_it_dies_with_its_supervisor(folder: Path) -> None:
    (folder / "prepared").mkdir()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from adarelu_sweep.operating.preparing import prepared_meanwhile\n"
        "with prepared_meanwhile(['own'], Path(sys.argv[1])):\n"
        "    print('torch' in sys.modules, flush=True); time.sleep(60)"
    )
    with (folder / "prepared" / ".own.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", code, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "False\n"
            (child,) = psutil.Process(process.pid).children()
            wait_until(lambda: child.nice() == 5)
            process.kill()
            wait_until(lambda: not child.is_running())


def test_it_needs_no_torch() -> None:
    code = "import sys, adarelu_sweep.datasets.preparing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "False\n"
