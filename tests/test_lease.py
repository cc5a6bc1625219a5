"""The lease: one process at a time supervises a study, and its death frees it."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from adarelu_sweep.errors import UserError
from adarelu_sweep.recording.lease import Holder, Lease

HOLDING = """
import subprocess, sys
from pathlib import Path
from adarelu_sweep.recording.lease import Lease
with Lease(Path(sys.argv[1]), "mine"):
    # What a supervisor starts may outlive it, and must not keep the lease.
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_holder(folder: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Let another process hold the lease; yield it, and a child that it has started."""
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holding:
        assert holding.stdout is not None
        child = psutil.Process(int(holding.stdout.readline()))
        try:
            yield holding, child
        finally:
            holding.kill()
            child.kill()


def test_taking_and_leaving(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "trials" / "mine", "mine")
    assert lease.holder() is None
    assert not (tmp_path / "trials").exists()  # asking makes nothing
    for _ in range(2):
        with lease:
            holder = Lease(tmp_path / "trials" / "mine", "mine").holder()
            assert holder is not None
            assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
            assert holder.is_alive()
        assert lease.holder() is None


def test_an_exception_gives_the_lease_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease(tmp_path, "mine"):
        raise ZeroDivisionError
    assert Lease(tmp_path, "mine").holder() is None
    with Lease(tmp_path, "mine"):
        pass


@pytest.fixture
def no_room(tmp_path: Path) -> Iterator[None]:
    """No file can be written from then on: as on a full disk, but for the error's number."""
    assert tmp_path.is_dir()  # pytest writes, too, when it makes it
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_room")
def test_on_a_full_disk_the_lease_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make room and repeat"), Lease(tmp_path, ""):
        pytest.fail("nobody could know who holds it")
    assert not Lease(tmp_path, "mine").is_taken()


def test_twice_in_one_process(tmp_path: Path) -> None:
    with Lease(tmp_path, "mine"):
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), Lease(tmp_path, "mine"):
            pytest.fail("two hold the lease")
        assert Lease(tmp_path, "mine").holder() is not None


def test_studies_do_not_share_a_lease(tmp_path: Path) -> None:
    with Lease(tmp_path / "mine", "mine"), Lease(tmp_path / "yours", "yours"):
        pass


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    with another_holder(tmp_path) as (holding, _):
        lease = Lease(tmp_path, "mine")
        with pytest.raises(UserError) as caught, lease:
            pytest.fail("two hold the lease")
        assert str(caught.value) == (
            f"study 'mine' is being run by process {holding.pid} on {socket.gethostname()}: "
            "wait for it, or stop it first with 'adarelu-sweep stop mine'"
        )
        holder = lease.holder()  # to be refused changes nothing
        assert holder is not None
        assert holder.pid == holding.pid
        assert holding.stdin is not None
        holding.stdin.close()  # lets it end
        assert holding.wait(60) == 0
        assert lease.holder() is None
        with lease:
            pass


def test_a_killed_process_frees_the_lease_though_its_child_lives(tmp_path: Path) -> None:
    with another_holder(tmp_path) as (holding, child):
        holding.kill()
        holding.wait()
        assert child.is_running()
        lease = Lease(tmp_path, "mine")
        assert (tmp_path / "lease.json").exists()
        assert lease.holder() is None
        with lease:
            holder = lease.holder()
            assert holder is not None
            assert holder.pid == os.getpid()


RACING = """
import sys, time
from pathlib import Path
from adarelu_sweep.errors import UserError
from adarelu_sweep.recording.lease import Lease
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
try:
    with Lease(Path(sys.argv[1]), "mine"):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    start = tmp_path / "start"
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, str(tmp_path / "mine"), str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    time.sleep(0.5)  # most of them are up by then
    start.touch()
    said = []
    for process in racing:
        assert process.stdout is not None
        said.append(process.stdout.readline().strip())
    for process in racing:
        process.communicate(timeout=60)
    assert said.count("held") == 1
    assert sum("is being run by" in line for line in said) == 5


# Who holds it


def test_a_process_id_that_another_process_has_now(tmp_path: Path) -> None:
    holder = Holder.this_process()
    assert holder.is_alive()
    assert not replace(holder, process_started=holder.process_started - 3600).is_alive()
    (tmp_path / "lease.json").write_text(
        json.dumps(vars(replace(holder, process_started=holder.process_started - 3600)))
    )
    assert Lease(tmp_path, "mine").holder() is None


def test_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not replace(Holder.this_process(), pid=process.pid).is_alive()


def test_of_another_host_the_lock_tells(tmp_path: Path) -> None:
    with another_holder(tmp_path) as (holding, _):
        lease = Lease(tmp_path, "mine")
        here = lease.holder()
        assert here is not None
        elsewhere = replace(here, host="elsewhere.example", pid=1)
        (tmp_path / "lease.json").write_text(json.dumps(vars(elsewhere)))
        assert lease.holder() == elsewhere
        holding.kill()
        holding.wait()
        assert lease.holder() is None


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "[1]", "null", '{"pid": 1}', "\0"])
def test_a_damaged_file_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "lease.json").write_text(content)
    lease = Lease(tmp_path, "mine")
    assert lease.holder() is None
    with lease:
        assert lease.holder() is not None


def test_a_damaged_file_does_not_hide_that_the_lease_is_held(tmp_path: Path) -> None:
    with another_holder(tmp_path):
        (tmp_path / "lease.json").write_text("")
        with (
            pytest.raises(UserError, match="is being run by another process"),
            Lease(tmp_path, "mine"),
        ):
            pytest.fail("two hold the lease")
