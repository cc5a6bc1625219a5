"""``doctor``: every check in its good and its bad state, met with real things."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
import psycopg
import pytest

from adarelu_sweep.benchmarking.processor import has_bf16
from adarelu_sweep.datasets.prepared import load
from adarelu_sweep.diagnosing import devices
from adarelu_sweep.diagnosing.data import data_sets
from adarelu_sweep.diagnosing.database import optuna_database, server_database
from adarelu_sweep.diagnosing.devices import memory, processor, torch_on_devices
from adarelu_sweep.diagnosing.doctor import Check, checks, examine
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.diagnosing.installation import versions
from adarelu_sweep.diagnosing.places import data_origin, home_filesystem, home_folder, storage
from adarelu_sweep.diagnosing.tracking_server import other_server, own_server
from adarelu_sweep.home import Home
from adarelu_sweep.placing.gpus import Gpu, list_gpus, recorded
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.tracking.server import Server, ensure_server, stop_server
from tests.postgres import ESCAPED, PostgresServer
from tests.postgres import PASSWORD as PASSWORD_OF_SERVER
from tests.sweeps import Command, environment
from tests.test_cli import imported, record_study

GPU = Gpu(index=3, uuid="GPU-00000000-dead", name="Card", memory_bytes=2**34, processes={7: 2**30})
PASSWORD = "hunter2secret"


@pytest.fixture(autouse=True)
def _directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no GPU of the machine that runs the tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def everything_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All entries of a folder, with what would show that one was touched."""
    entries = {}
    for path in (folder, *folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        entries[str(path)] = path.stat().st_mtime_ns, content
    return entries


# The command


def test_on_a_new_machine_all_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    command = Command(tmp_path / "home", CUDA_VISIBLE_DEVICES="")
    told = command.json("doctor", "--json")
    assert told["ok"] is True
    states = {(one["area"], one["name"]): one["state"] for one in told["findings"]}
    assert {area for area, _ in states} == {
        *("version", "device", "home", "database", "tracking", "storage", "data")
    }
    for name in ("adarelu-sweep", "python", "torch", "optuna", "mlflow", "sqlalchemy"):
        assert states["version", name] == "ok"
    assert states["device", "torch"] == states["home", "disk"] == states["data", "digits"] == "ok"
    assert states["device", "gpu"] == states["home", "folder"] == "absent"
    assert states["database", "optuna"] == states["tracking", "home's server"] == "absent"
    assert states["data", "cifar10"] == "absent"
    assert list(tmp_path.iterdir()) == []


def test_what_is_heavy_is_left_to_other_processes(tmp_path: Path) -> None:
    modules, out = imported(Command(tmp_path / "home"), "doctor")
    assert "computes" in out
    assert modules.isdisjoint({"torch", "mlflow", "scipy", "matplotlib"})


def test_of_a_home_in_trouble_each_line_says_what_and_nothing_is_touched(
    tmp_path: Path, study_file: Path
) -> None:
    home = tmp_path / "home"
    record_study(home, study_file)
    book = home / "optuna.db"
    content = bytearray(book.read_bytes())
    content[4096:20000] = os.urandom(20000 - 4096)
    book.write_bytes(content)
    (home / "data").mkdir()
    (home / "data" / "mnist.npz").write_bytes(b"PK nothing")
    (home / "trials").write_text("no folder")
    before = everything_below(tmp_path)
    with closing(listening()) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        given = {"MLFLOW_TRACKING_URI": address.replace("//", f"//user:{PASSWORD}@")}
        command = Command(home, CUDA_VISIBLE_DEVICES="", no_proxy="*", **given)
        begun = time.monotonic()
        done = command.run("doctor")
    assert time.monotonic() - begun < 60
    assert done.returncode == 1
    assert done.stderr == ""
    assert PASSWORD not in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    assert len(failed) == 4
    assert "optuna.db: " in failed[0]
    assert "put back a copy of it" in failed[0]
    assert f"the tracking server {address} does not answer" in failed[1]
    assert f"{home}/trials is not a folder" in failed[2]
    assert "adarelu-sweep data fetch mnist" in failed[3]
    assert all(" ok " in f" {line}" or "absent" in line or line in failed
               for line in done.stdout.splitlines())  # fmt: skip
    assert everything_below(tmp_path) == before


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    done = command.run("doctor", "--tracking-uri", f"http://user:{PASSWORD}@127.0.0.1:1")
    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1


def test_what_hangs_or_breaks_delays_and_breaks_nothing() -> None:
    def break_off() -> Finding:
        raise RuntimeError("two\nlines")

    checks = [
        Check("area", "hanging", lambda: time.sleep(60) or [], patience=0.5),
        Check("area", "breaking", break_off),
        Check("area", "working", lambda: Finding("area", "working", State.OK, "here")),
    ]
    begun = time.monotonic()
    hanging, breaking, working = examine(checks)
    assert time.monotonic() - begun < 10
    assert hanging.state is breaking.state is State.FAILED
    assert "no answer within" in hanging.found
    assert breaking.found == "RuntimeError: two"
    assert working.state is State.OK


# Versions


def pretend(folder: Path, name: str, version: str, *needs: str) -> None:
    """Lay a package's metadata into a folder, as an installation does."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    (place / "METADATA").write_text("\n".join(lines))


def test_a_library_that_is_missing_or_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = by_name(versions())
    assert {finding.state for finding in usual.values()} <= {State.OK, State.ABSENT}
    needs = ("optuna>=5.0", "nowhere-to-be-found>=1", 'elsewhere>=1; extra == "more"')
    pretend(tmp_path, "adarelu_sweep", "0.1.0", *needs)
    pretend(tmp_path, "optuna", "4.8.0")
    pretend(tmp_path, "ray", "2.50.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = by_name(versions())
    assert found["optuna"].state is State.FAILED
    assert "4.8.0" in found["optuna"].found
    assert found["optuna"].advice == "pip install 'optuna>=5.0'"
    assert found["nowhere-to-be-found"].state is State.FAILED
    assert found["ray"].state is State.OK
    assert found["mlflow"].state is State.OK
    assert "elsewhere" not in found


# Devices


def test_the_processor_and_memory() -> None:
    cores = len(os.sched_getaffinity(0))
    assert processor().found.startswith(f"{cores} of ")
    known = {True: ", bf16", False: ", no bf16 instructions", None: "for one slot"}
    assert processor().found.endswith(known[has_bf16()])
    assert "GiB" in memory().found


def test_a_gpu_that_torch_cannot_use_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "gpus.json"
    listing.write_text(recorded([GPU]))
    monkeypatch.setenv("ADARELU_SWEEP_GPU_LISTING", str(listing))
    [hidden, processor] = torch_on_devices()  # by CUDA_VISIBLE_DEVICES
    assert hidden.state is State.ABSENT
    assert processor.state is State.OK
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    [finding] = torch_on_devices()
    assert finding.state is State.FAILED
    assert finding.name == "gpu 3"
    assert finding.found.startswith("Card, 16 GiB, busy (process 7 with 1.0 GiB): ")
    assert f"cannot use the GPU {GPU.uuid}" in finding.found
    assert "--gpus none" in finding.advice
    listing.write_text("no listing")
    [failed] = examine([Check("device", "torch", torch_on_devices)])
    assert "is no GPU listing" in failed.found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ImportError('libcudart is not there')", "ImportError: libcudart is not there"),
        ("import os; os.abort()", "ended with status -6"),
        ("import time; time.sleep(60)", "no result within 3 s"),
    ],
)
def test_a_torch_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: str
) -> None:
    (tmp_path / "torch.py").write_text(code)
    path = [str(tmp_path), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setattr(devices, "PATIENCE", 3.0)
    [_, finding] = torch_on_devices()
    assert finding.state is State.FAILED
    assert expected in finding.found


@pytest.mark.gpu
@pytest.mark.skipif(not list_gpus(), reason="no GPU")
def test_every_gpu_of_this_machine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = list(torch_on_devices())
    assert found
    assert all(one.name.startswith("gpu ") and one.state is State.OK for one in found), found


# Folders


def test_a_home_that_is_there_or_cannot_be(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    assert home_folder(home).state is State.OK
    assert by_name(storage(home, with_artifacts=True))["artifacts"].state is State.OK
    assert set(by_name(storage(home, with_artifacts=False))) == {"trials"}
    below_a_file = Home(tmp_path / "file" / "home")
    (tmp_path / "file").write_text("")
    assert home_folder(below_a_file).state is State.FAILED
    assert data_origin(tmp_path / "file").state is State.FAILED
    assert data_origin(tmp_path / "none").state is State.ABSENT
    assert data_origin(tmp_path).state is State.OK


ON_A_DISK = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
LOOK = """
import json, sys
from pathlib import Path
from adarelu_sweep.diagnosing.places import data_origin, free_disk, home_folder
from adarelu_sweep.home import Home
home = Home(Path(sys.argv[1]) / "home")
findings = [home_folder(home), free_disk(home), data_origin(home.root.parent)]
print(json.dumps([finding.as_dict() for finding in findings]))
"""


def on_a_disk(folder: Path, options: str) -> list[dict[str, str]]:
    """What is found of a home on a file system that is mounted for the moment."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder]).returncode:
        pytest.skip("no file system of one's own can be had here")
    look = [sys.executable, "-c", LOOK, str(folder)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_DISK, options, str(folder), *look],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def test_a_home_on_a_disk_that_is_read_only_or_full(tmp_path: Path) -> None:
    home, disk, data = on_a_disk(tmp_path, "ro,size=900m")
    assert home["state"] == "failed"
    assert home["found"] == f"{tmp_path} cannot be written"
    assert "read-only" in data["found"]
    assert data["state"] == disk["state"] == "ok"
    home, disk, _ = on_a_disk(tmp_path, "size=4m")
    assert home["state"] == "absent"
    assert disk["state"] == "failed"
    assert disk["found"] == "only 4 MiB free"


def test_the_file_system_says_whether_a_write_ahead_log_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = home_filesystem(Home(tmp_path))
    assert "SQLite keeps a write-ahead log" in local.found
    part = SimpleNamespace(mountpoint="/", fstype="nfs4")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [part])
    remote = home_filesystem(Home(tmp_path))
    assert "network file system (nfs4)" in remote.found
    assert "without its write-ahead log" in remote.found


# The Optuna database


@pytest.fixture
def book(tmp_path: Path, study_file: Path) -> Path:
    """The database of a home with a study."""
    record_study(tmp_path / "home", study_file)
    return tmp_path / "home" / "optuna.db"


def test_a_database_is_read_without_a_trace(book: Path) -> None:
    before = everything_below(book.parent)
    finding = optuna_database(book)
    assert finding.state is State.OK
    assert "1 study" in finding.found
    assert "of Optuna 5." in finding.found
    assert "write-ahead log" in finding.found
    assert everything_below(book.parent) == before


def test_what_a_running_sweep_has_not_written_back_yet_is_seen(
    book: Path, study_file: Path
) -> None:
    ledger = Ledger(book)
    record_study(book.parent, study_file, "second")
    assert (book.parent / "optuna.db-wal").stat().st_size > 0
    before = everything_below(book.parent)
    finding = optuna_database(book)
    after = everything_below(book.parent)
    ledger.close()
    assert finding.state is State.OK
    assert "2 studies" in finding.found
    assert but_shared(after) == but_shared(before)


def but_shared(entries: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
    """Leave out the memory in which SQLite's readers say what they read: no state is in it."""
    return {name: entry for name, entry in entries.items() if not name.endswith("-shm")}


def test_a_database_left_by_a_killed_sweep(book: Path, study_file: Path, tmp_path: Path) -> None:
    ledger = Ledger(book)
    record_study(book.parent, study_file, "second")
    left = tmp_path / "left"
    shutil.copytree(book.parent, left)
    ledger.close()
    before = everything_below(left)
    assert "2 studies" in optuna_database(left / "optuna.db").found
    assert but_shared(everything_below(left)) == but_shared(before)


# With the journal of a network file system: killed as soon as the database itself is written.
HALF_WRITTEN = """
import os, sqlite3, sys
book = sqlite3.connect(sys.argv[1], isolation_level=None)
book.execute("PRAGMA journal_mode = DELETE")
book.execute("PRAGMA cache_size = 2")
book.execute("BEGIN IMMEDIATE")
for number in range(500):
    book.execute("INSERT INTO studies (study_name) VALUES (?)", (f"{number}" * 100,))
os._exit(1)
"""


def test_a_database_whose_writer_was_killed_is_told_and_mended(book: Path) -> None:
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, book])
    before = everything_below(book.parent)
    assert book.with_name("optuna.db-journal").stat().st_size > 0
    finding = optuna_database(book)
    assert finding.state is State.FAILED
    assert "its writer was killed" in finding.found
    assert "adarelu-sweep list" in finding.advice
    assert everything_below(book.parent) == before
    ledger = Ledger(book)
    assert ledger.names() == ["small"]
    ledger.close()
    finding = optuna_database(book)
    assert finding.state is State.OK
    assert "1 study" in finding.found


def test_a_database_that_is_none_or_anothers(tmp_path: Path) -> None:
    absent = optuna_database(tmp_path / "optuna.db")
    assert absent.state is State.ABSENT
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    (tmp_path / "text.db").write_text("no database" * 1000)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "file").write_text("")
    before = everything_below(tmp_path)
    assert "its tables are not Optuna's" in optuna_database(other).found
    assert "not a database" in optuna_database(tmp_path / "text.db").found
    assert optuna_database(tmp_path / "folder.db").state is State.FAILED
    assert everything_below(tmp_path) == before


def test_a_damaged_database(book: Path) -> None:
    content = bytearray(book.read_bytes())
    content[3000:4000] = bytes(1000)
    content[-4096:] = os.urandom(4096)
    book.write_bytes(content)
    finding = optuna_database(book)
    assert finding.state is State.FAILED
    assert "put back a copy of it" in finding.advice


def test_a_database_of_a_newer_optuna(book: Path) -> None:
    with closing(sqlite3.connect(book)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        connection.execute("UPDATE version_info SET library_version = '99.0.0'")
    finding = optuna_database(book)
    assert finding.state is State.FAILED
    assert "set up by optuna 99.0.0" in finding.found
    assert "use that one" in finding.advice


def test_a_database_of_a_server(postgres: PostgresServer) -> None:
    address, bare = postgres.database(), postgres.address("db", password="")
    found = server_database(address)
    assert (found.state, ESCAPED in str(found)) == (State.ABSENT, False)
    assert "is empty: the first launch makes its tables" in found.found
    Ledger(address).close()
    found = server_database(address)
    assert found.state is State.OK
    assert re.search(r"answers: tables v\S+ of Optuna \S+, 0 studies", found.found)
    plain = address.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.9.9.a'")
        assert server_database(address).state is State.FAILED
        connection.execute("ALTER TABLE studies RENAME TO others")
        assert "its tables are not Optuna's" in server_database(address).found
    for unusable in (bare, "postgresql://me@127.0.0.1:1/db"):
        found = server_database(unusable)
        assert found.state is State.FAILED
        assert found.advice.startswith("start the server")
    [check] = [c for c in checks(Home(Path(), address), Path(), None) if c.area == "database"]
    [shown] = examine([check])
    assert "alembic" not in str(shown)
    assert PASSWORD_OF_SERVER not in str(shown)


# The tracking server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Server]]:
    """A home whose MLflow server is up."""
    home = Home(tmp_path_factory.mktemp("served") / "home")
    yield home, ensure_server(home)
    stop_server(home)


def listening() -> socket.socket:
    """A port that takes connections and never says a word."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    return silent


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that answers everything with one status."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_up(server: tuple[Home, Server]) -> None:
    home, up = server
    for finding in (own_server(home), other_server(up.url)):
        assert finding.state is State.OK
        assert finding.found.startswith(f"{up.url} answers (MLflow 3.")
    database = other_server(f"sqlite:///{home.mlflow_db}")
    assert database.state is State.OK
    assert "with MLflow's tables" in database.found


def test_a_server_that_hangs_or_is_not_up(server: tuple[Home, Server], tmp_path: Path) -> None:
    home, up = server
    processes = up.processes()
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        finding = own_server(home)
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    assert finding.state is State.FAILED
    assert f"{up.url} (process {up.pid}) does not answer" in finding.found
    assert own_server(Home(tmp_path)).state is State.ABSENT
    assert list(tmp_path.iterdir()) == []


def test_addresses_at_which_no_tracking_server_answers() -> None:
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        refusing = other_server(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert refusing.state is State.FAILED
    assert "refused" in refusing.found
    with closing(listening()) as silent:
        begun = time.monotonic()
        hanging = other_server(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begun < 12
    assert hanging.state is State.FAILED
    assert "does not answer" in hanging.found
    for status, expected in (
        (500, "it says 500"),
        (404, "it says 404"),
        (401, "user and password"),
    ):
        with answering(status) as url:
            finding = other_server(url)
        assert finding.state is State.FAILED
        assert expected in finding.found
    [failed] = examine([Check("tracking", "server", lambda: other_server("127.0.0.1:5000"))])
    assert "not a tracking address" in failed.found


def test_tracking_into_files_and_databases(tmp_path: Path) -> None:
    folder = other_server(f"file://{quote(str(tmp_path))}")
    assert folder.state is State.OK
    assert other_server(str(tmp_path / "none")).state is State.ABSENT
    assert other_server(f"sqlite:///{tmp_path}/none.db").state is State.ABSENT
    (tmp_path / "text.db").write_text("no database" * 1000)
    damaged = other_server(f"sqlite:///{tmp_path}/text.db")
    assert damaged.state is State.FAILED
    assert "not a database" in damaged.found
    assert [path.name for path in tmp_path.iterdir()] == ["text.db"]
    with closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        remote = other_server(f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:{port}/mlflow")
    assert remote.state is State.FAILED
    assert "start the database, or install its driver" in remote.advice
    assert PASSWORD not in f"{remote}{remote.as_dict()}"


# Data


def test_data_sets_there_prepared_absent_and_damaged(tmp_path: Path) -> None:
    images = {f"x_{split}": np.zeros((8, 32, 32), np.uint8) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(8) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "own.npz", **images, **labels)
    (tmp_path / "cifar10.npz").write_bytes(b"PK nothing")
    found = by_name(data_sets(tmp_path))
    assert found["own"].found == str(tmp_path / "own.npz")
    assert found["digits"].found == "built in"
    assert found["mnist"].state is State.ABSENT
    assert "adarelu-sweep data fetch mnist" in found["mnist"].advice
    assert found["cifar10"].state is State.FAILED
    assert "delete it" in found["cifar10"].found
    load("own", tmp_path)
    assert by_name(data_sets(tmp_path))["own"].found.endswith(", prepared")
