"""The command line from the outside: help, imports, plans, and one line for every user's error."""

import json
import os
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
from typing import Any

import pytest

from adarelu_sweep._version import __version__
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.placing.gpus import Gpu, recorded
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.address import require_answer, take_credentials
from tests.sweeps import Command

COMMANDS = [
    *("launch", "resume", "validate", "bench", "status", "list", "logs", "stop", "report"),
    *("delete", "ui", "server", "home", "data", "doctor"),
]
SUBCOMMANDS = [
    *(("server", name) for name in ("start", "stop", "status")),
    ("home", "migrate"),
    *(("data", name) for name in ("fetch", "list")),
]
LEAVES = [*((name,) for name in COMMANDS if name not in {"server", "home", "data"}), *SUBCOMMANDS]
HEAVY = ["torch", "mlflow", "optuna", "scipy", "numpy", "pydantic", "sqlalchemy", "matplotlib"]
GPU = Gpu(index=0, uuid="GPU-0", name="Card", memory_bytes=2**34)
BUSY = Gpu(index=1, uuid="GPU-1", name="Card", memory_bytes=2**34, processes={7: 2**30})

IMPORTED = """
import sys
from adarelu_sweep.cli.main import cli
try:
    cli.main(sys.argv[2:], prog_name='adarelu-sweep', standalone_mode=False)
finally:
    print([name for name in sys.argv[1].split(',') if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture
def here(tmp_path: Path) -> Command:
    """The command with a home that is not there yet, on a machine without GPUs."""
    return on_machine(tmp_path)


def on_machine(folder: Path, *gpus: Gpu, **extra: str) -> Command:
    """The command on a machine with these GPUs."""
    listing = folder / "gpus.json"
    listing.write_text(recorded(list(gpus)))
    surroundings = {"ADARELU_SWEEP_GPU_LISTING": str(listing), "no_proxy": "*"} | extra
    return Command(folder / "home", **surroundings)


def refusal(command: Command, *arguments: str | Path) -> str:
    """The one line on standard error with which a call is refused."""
    done = command.run(*arguments)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert done.stdout == ""
    return lines[0]


def assert_nothing_recorded(command: Command) -> None:
    """No study, and of folders only the home's own, with nothing in them."""
    if (command.home / "optuna.db").exists():
        ledger = Ledger(command.home / "optuna.db")
        assert ledger.names() == []
        ledger.close()
    assert not any((command.home / name).exists() for name in ("trials", "logs", "server.json"))
    folders = {path for path in command.home.glob("*") if path.is_dir()}
    assert folders <= {command.home / "artifacts", command.home / "data"}
    assert [path for folder in folders for path in folder.iterdir()] == []


def record_study(home: Path, study_file: Path, name: str = "small") -> None:
    """Record a study's plan, as a launch does before it trains."""
    here = Home(home)
    here.create()
    ledger = Ledger(here.optuna_db)
    ledger.create(
        StudyRecord(
            uid="0" * 32,
            study=read_study(study_file, name=name),
            source=study_file.read_text(),
            created="2026-01-01T00:00:00+00:00",
            version=__version__,
        )
    )
    ledger.close()


def imported(command: Command, *arguments: str | Path) -> tuple[set[str], str]:
    """Which of the heavy modules a call imports, and what it prints."""
    script = [sys.executable, "-c", IMPORTED, ",".join(HEAVY), *map(str, arguments)]
    done = subprocess.run(script, capture_output=True, text=True, env=command.environment)
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(done.stderr.splitlines()[-1].replace("'", '"'))
    return set(modules), done.stdout


# Help and imports


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), *SUBCOMMANDS], ids=" ".join)
def test_help_answers_without_heavy_imports(here: Command, words: tuple[str, ...]) -> None:
    modules, out = imported(here, *words, "--help")
    assert modules == set()
    assert out.startswith(" ".join(["Usage: adarelu-sweep", *words, "["]))
    assert ("--home" in out) == (words in LEAVES)
    assert not here.home.exists()


def test_the_help_names_every_command(here: Command) -> None:
    out = here.succeed("--help")
    assert here.succeed("-h") == out
    commands = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert commands == COMMANDS
    assert here.succeed("--version").split() == ["adarelu-sweep,", "version", __version__]


@pytest.mark.parametrize("words", [(), ("server",), ("home",), ("data",)], ids=" ".join)
def test_a_group_alone_shows_its_help(here: Command, words: tuple[str, ...]) -> None:
    done = here.run(*words)
    assert "Commands:" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_validate_imports_little(here: Command, study_file: Path) -> None:
    modules, out = imported(here, "validate", study_file)
    assert "4 trials" in out
    assert modules.isdisjoint({"torch", "mlflow", "optuna", "scipy", "sqlalchemy", "matplotlib"})


def test_status_and_list_import_no_torch_or_mlflow(here: Command, study_file: Path) -> None:
    record_study(here.home, study_file)
    for arguments in (("status", "small", "--json"), ("list",)):
        modules, out = imported(here, *arguments)
        assert "small" in out
        assert modules.isdisjoint({"torch", "mlflow", "scipy", "matplotlib"})


def test_list_shows_the_others_where_one_study_cannot_be_read(
    here: Command, study_file: Path
) -> None:
    record_study(here.home, study_file)
    with closing(sqlite3.connect(here.home / "optuna.db")) as book, book:
        book.execute("INSERT INTO studies (study_name) VALUES ('other')")
        book.execute(
            "INSERT INTO study_user_attributes (study_id, key, value_json) "
            "SELECT (SELECT study_id FROM studies WHERE study_name = 'other'), key, "
            "replace(value_json, '0', '[') FROM study_user_attributes"
        )
    done = here.run("list")
    assert done.returncode == 1
    assert done.stdout.startswith("small:")
    assert done.stderr.startswith("study 'other' has a plan that")
    assert done.stderr.count("\n") == 1
    done = here.run("list", "--json")
    assert [state["study"] for state in json.loads(done.stdout)] == ["small"]


def test_the_server_and_the_data_are_looked_at_without_torch_or_mlflow(here: Command) -> None:
    for arguments in (("server", "status"), ("server", "stop"), ("data", "list")):
        modules, _ = imported(here, *arguments)
        assert modules.isdisjoint({"torch", "mlflow", "optuna"})


# Mistakes in calling


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lanch"], "lanch"),
        (["launch"], "STUDY.toml"),
        (["resume"], "NAME"),
        (["data", "fetch"], "NAME"),
        (["server", "begin"], "begin"),
        (["launch", "a.toml", "b.toml"], "b.toml"),
        (["launch", "a.toml", "--bogus"], "--bogus"),
        (["launch", "a.toml", "--workers", "two"], "two"),
        (["launch", "a.toml", "--set"], "--set"),
        (["report", "small", "--format", "xml"], "xml"),
        (["ui", "--port", "65536"], "65536"),
        (["server", "start", "--port", "http"], "http"),
        (["list", "--home", __file__], "is a file"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_line(here: Command, arguments: list[str], expected: str) -> None:
    error = refusal(here, *arguments)
    assert expected in error
    assert "--help" in error or "requires an argument" in error
    assert not here.home.exists()


def test_a_home_that_cannot_be(tmp_path: Path, study_file: Path) -> None:
    command = Command(study_file / "home")
    assert "cannot be the home" in refusal(command, "launch", study_file, "--gpus", "none")
    assert command.succeed("list") == "no studies yet\n"


# Study files


def test_a_study_file_that_is_missing_or_malformed(
    here: Command, tmp_path: Path, study_file: Path
) -> None:
    nowhere = tmp_path / "two\nlines.toml"
    for verb in ("launch", "validate"):
        assert "there is no such study file" in refusal(here, verb, nowhere)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 'broken'\n[matrix\n")
    error = refusal(here, "validate", broken)
    assert str(broken) in error
    assert "line 2" in error
    broken.write_text(study_file.read_text().replace("[training]", "[training]\nepoch = 3"))
    error = refusal(here, "launch", broken)
    assert f"{broken}: training.epoch: unknown key" in error
    assert "'epochs'" in error
    assert not here.home.exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("matrix.activation=adarlu", "'adarelu'"),
        ("matrix.network=resnet", "'resnet18'"),
        ("matrix.dataset=mnits", "'mnist'"),
        ("training.optimizer.lr=fast", "sgd.lr = 'fast'"),
        ("nothing", "KEY=VALUE"),
        ("two\nlines", "KEY=VALUE"),
        ("matrix.seeds=0", "give 1 or more"),
    ],
)
def test_an_unknown_name_or_value_is_named(
    here: Command, study_file: Path, override: str, expected: str
) -> None:
    assert expected in refusal(here, "validate", study_file, "--set", override)
    assert not here.home.exists()


def test_a_launch_with_an_unknown_data_set_records_nothing(here: Command, study_file: Path) -> None:
    error = refusal(here, "launch", study_file, "--set", "matrix.dataset=mnits")
    assert "unknown data set 'mnits' (did you mean 'mnist'?)" in error
    assert_nothing_recorded(here)


def test_a_name_that_cannot_be_a_folder(here: Command, study_file: Path) -> None:
    error = refusal(here, "launch", study_file, "--name", "../up")
    assert "'../up' is not a usable name" in error
    assert not here.home.exists()


# The plan


def test_validate_shows_the_plan_and_makes_nothing(here: Command, study_file: Path) -> None:
    out = here.succeed("validate", study_file, "--workers", "2", "--pack", "2")
    assert "small: 4 trials of 3 epochs, 12 epochs in all" in out
    assert "networks     vgg16_bn(width=0.0625)" in out
    assert "activations  relu, adarelu" in out
    assert "arms         2, each with 2 seeds" in out
    assert "digits: 256 training and 100 test images, 8 steps per epoch (built in)" in out
    assert "a fixed subset of the data" in out
    command = f"adarelu-sweep bench --study {study_file} --workers=2"
    assert f"  time         how long it takes is not known: {command}\n" in out
    assert "of 4 trials in hand 3 of" in out  # of two workers with two each
    slots = [line.split() for line in out.splitlines() if line.startswith("  slot ")]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [(slot[1], slot[2].rstrip(","), slot[3]) for slot in slots] == [
        ("0", "cpu", threads),
        ("1", "cpu", threads),
    ]
    assert not here.home.exists()


def test_validate_heeds_overrides_and_says_what_will_be_downloaded(
    here: Command, study_file: Path, tmp_path: Path
) -> None:
    out = here.succeed(
        *("validate", study_file, "--set", "matrix.dataset=['digits','mnist']"),
        *("--set", "matrix.seeds=[5]", "--set", "training.epochs=1", "--data-dir", tmp_path / "no"),
    )
    assert "small: 4 trials of 1 epoch, 4 epochs in all" in out
    assert "mnist: 256 training and 100 test images, 8 steps per epoch (will be downloaded)" in out
    assert sum(line.startswith("  slot ") for line in out.splitlines()) == 1
    assert not (tmp_path / "no").exists()


def test_validate_says_what_the_seeds_can_show(here: Command, study_file: Path) -> None:
    activations = 'matrix.activation=["relu", "prelu", "leaky_relu", "adarelu"]'
    out = here.succeed("validate", study_file, "--set", activations, "--set", "matrix.seeds=5")
    assert (
        "  power        with 5 seeds no difference, however large, can be significant at 5 % (the "
        "smallest possible p is 0.0625): 6 seeds or more are needed, 7 or more after Holm's "
        "correction for 3 comparisons\n"
    ) in out
    modules, out = imported(here, "validate", study_file, "--set", "matrix.seeds=20")
    assert "20 seeds: a difference of 0.66 standard deviations of the paired differences" in out
    assert modules.isdisjoint({"torch", "mlflow", "optuna", "matplotlib", "pandas"})


@pytest.mark.long
def test_validate_divides_the_gpus(tmp_path: Path, study_file: Path) -> None:
    command = on_machine(tmp_path, GPU, BUSY)
    out = command.succeed("validate", study_file)
    assert "slot 0       GPU 0 (Card)" in out
    assert "slot 1" not in out
    assert "Warning: GPU 1 is busy (process 7 with 1.0 GiB) and left out" in out
    out = command.succeed("validate", study_file, "--gpus", "1,0", "--workers", "3")
    slots = [line.split()[3] for line in out.splitlines() if line.startswith("  slot ")]
    assert slots == ["1", "0", "1"]
    assert "slot 0       cpu" in command.succeed("validate", study_file, "--gpus", "none")


# GPUs and workers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpus", "7"], "--gpus 7: GPU 7 is not there"),
        (["--gpus", "x"], "--gpus x: give all, none, or indices such as 0,1"),
        (["--gpus", ""], "give all, none, or indices"),
        (["--gpus", "all"], "--gpus all: this machine has no NVIDIA GPU"),
        (["--workers", "0"], "--workers 0: give 1 or more"),
    ],
    ids=" ".join,
)
def test_slots_that_cannot_be(
    here: Command, study_file: Path, arguments: list[str], expected: str
) -> None:
    assert expected in refusal(here, "validate", study_file, *arguments)


def test_a_gpu_that_is_not_there_beside_one_that_is(tmp_path: Path, study_file: Path) -> None:
    error = refusal(on_machine(tmp_path, GPU), "validate", study_file, "--gpus", "7")
    assert "GPU 7 is not there; there are 0 (Card)" in error
    error = refusal(on_machine(tmp_path, BUSY), "validate", study_file)
    assert "every GPU is busy" in error


def test_a_launch_without_slots_records_nothing(here: Command, study_file: Path) -> None:
    refusal(here, "launch", study_file, "--gpus", "7")
    refusal(here, "launch", study_file, "--workers", "0")
    assert here.json("list", "--json") == []
    assert_nothing_recorded(here)


# Studies


@pytest.mark.parametrize("arguments", [["status"], ["report", "x"], ["resume", "x"]], ids=" ".join)
def test_a_home_without_studies(here: Command, arguments: list[str]) -> None:
    assert "no studies in" in refusal(here, *arguments)
    assert not here.home.exists()


@pytest.mark.long
def test_a_study_that_is_there_and_one_that_is_not(here: Command, study_file: Path) -> None:
    record_study(here.home, study_file)
    assert "unknown study 'smal' (did you mean 'small'?)" in refusal(here, "resume", "smal")
    error = refusal(here, "launch", study_file)
    assert "study 'small' exists" in error
    assert "resume small" in error
    assert "--name" in error
    assert not (here.home / "trials").exists()
    state = here.json("status", "small", "--json")
    assert (state["study"], state["state"]) == ("small", "interrupted")
    assert state["trials"] == {
        "total": 4,
        "complete": 0,
        "pruned": 0,
        "failed": 0,
        "running": 0,
        "waiting": 4,
    }
    assert here.json("list", "--json") == [state]
    arms = here.json("report", "small", "--format", "json", "--no-figures", "--no-log")["arms"]
    assert [arm["n"] for arm in arms] == [0, 0]
    printed = here.succeed("report", "small", "--format", "csv", "--no-figures", "--no-log")
    assert printed.startswith("dataset,network,")


def test_the_home_may_be_given_after_the_name(here: Command, study_file: Path) -> None:
    other = here.home.parent / "other"
    record_study(other, study_file, name="elsewhere")
    assert "elsewhere: interrupted, 0 of 4" in here.succeed("status", "--home", other)
    assert not here.home.exists()


def test_a_database_that_is_none(here: Command) -> None:
    here.home.mkdir()
    (here.home / "optuna.db").write_text("not a database, and long enough to be none\n" * 50)
    for arguments in (("list",), ("resume", "small")):
        assert "not a usable Optuna database" in refusal(here, *arguments)


# Ports


@contextmanager
def listening() -> Iterator[int]:
    """A port in use, whose owner accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("words", [("ui",), ("server", "start")], ids=" ".join)
def test_a_port_in_use(here: Command, words: tuple[str, ...]) -> None:
    with listening() as port:
        error = refusal(here, *words, "--port", str(port))
    assert f"port {port} is in use" in error
    assert "--port" in error
    assert not (here.home / "server.json").exists()
    assert here.json("server", "status", "--json")["up"] is False


# Tracking servers


class Answer(BaseHTTPRequestHandler):
    """Says what the server was made to say."""

    def do_POST(self) -> None:
        self.server.seen.append(dict(self.headers))  # type: ignore[attr-defined]
        self.wfile.write(self.server.answer)  # type: ignore[attr-defined]
        self.wfile.flush()
        if self.server.trickle:  # type: ignore[attr-defined]
            try:
                while True:
                    time.sleep(0.5)
                    self.wfile.write(b"X-More: 1\r\n")
            except OSError:
                pass
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(answer: bytes, trickle: bool = False) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    vars(server).update(answer=answer, trickle=trickle, seen=[])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        if not trickle:
            server.server_close()


def test_a_tracking_server_that_never_answers_is_given_up_within_10_s(
    here: Command, study_file: Path
) -> None:
    """One that accepts and is silent, asked by a launch; and one whose answer never ends."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.settimeout(60)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = here.start("launch", study_file, "--tracking-uri", uri)
        connection, _ = silent.accept()
        asked = time.monotonic()
        with closing(connection):
            with answering(b"HTTP/1.0 200 OK\r\n", trickle=True) as endless:
                with pytest.raises(UserError, match="nothing within"):
                    require_answer(endless)
                assert time.monotonic() - asked < 10
            out, err = process.communicate(timeout=60)
        assert time.monotonic() - asked < 10
    assert process.returncode == 2
    assert out == ""
    assert err.startswith(f"Error: the tracking server {uri} does not answer")
    assert err.count("\n") == 1
    assert_nothing_recorded(here)


def test_a_tracking_server_that_is_down_or_broken(here: Command, study_file: Path) -> None:
    uri = f"http://user:hunter2secret@127.0.0.1:{closed_port()}"
    here.environment["MLFLOW_TRACKING_URI"] = uri
    error = refusal(here, "launch", study_file)
    assert "does not answer" in error
    assert "refused" in error
    assert "hunter2secret" not in error
    with answering(b"HTTP/1.0 500 Broken\r\n\r\n") as broken:
        here.environment["MLFLOW_TRACKING_URI"] = broken
        error = refusal(here, "launch", study_file)
    assert f"the tracking server {broken} does not answer (it says 500 Broken)" in error
    assert_nothing_recorded(here)


@pytest.mark.parametrize("answer", [b"", b"220 mail ready\r\n", b"HTTP/1.0 404 None\r\n\r\n"])
def test_what_is_no_tracking_server(answer: bytes) -> None:
    with answering(answer) as uri, pytest.raises(UserError, match="does not answer") as raised:
        require_answer(uri)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
def test_a_tracking_server_that_answers(status: str) -> None:
    with answering(f"HTTP/1.0 {status}\r\n\r\n{{}}".encode()) as uri:
        require_answer(uri)
        require_answer(f"{uri}/")


@pytest.mark.parametrize(
    "uri",
    ["ftp://user:pw@host", "localhost:5000", "127.0.0.1:5000", "http://[::1", "http://u:pw@[x/"],
)
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(UserError, match="not a tracking address") as raised:
        require_answer(uri)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:port", "http://a host/", "http://", "http://a..b"]
)
def test_an_address_that_leads_nowhere(uri: str) -> None:
    with pytest.raises(UserError, match="does not answer"):
        require_answer(uri)


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "postgresql://h/db", "mysql+pymysql://h/db", "databricks", "./x"]
)
def test_an_address_for_mlflow_to_judge(uri: str) -> None:
    require_answer(uri)
    assert take_credentials(uri) == uri


def test_credentials_are_taken_out_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "before")
    assert take_credentials("https://host:1/path") == "https://host:1/path"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "before"
    assert take_credentials("https://me%40work:p%2Fw@host:1/path") == "https://host:1/path"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me@work"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p/w"


# Data sets


def test_a_data_set_that_cannot_be_downloaded(tmp_path: Path, study_file: Path) -> None:
    """Without a network: every address is asked of a proxy that is not there."""
    proxy = f"http://127.0.0.1:{closed_port()}"
    command = on_machine(tmp_path, http_proxy=proxy, https_proxy=proxy, no_proxy="")
    data = tmp_path / "data"
    done = command.run(
        *("launch", study_file, "--data-dir", data),
        *("--set", "matrix.dataset=mnist"),
    )
    assert done.returncode == 2
    *progress, error = done.stderr.splitlines()
    assert "".join(progress).startswith("Fetching mnist into ")
    assert error.startswith("Error: mnist could not be downloaded")
    assert str(data) in error
    assert "Traceback" not in done.stderr
    assert [path for path in data.iterdir() if path.suffix != ".lock"] == []
    assert_nothing_recorded(command)


def test_the_data_sets_are_listed(here: Command, tmp_path: Path) -> None:
    out = here.succeed("data", "list", "--data-dir", tmp_path)
    assert "digits: built in\n" in out
    assert "mnist: not there\n" in out
    assert here.succeed("data", "fetch", "digits") == "digits: built in\n"
    for verb in ("list", "fetch"):
        assert "did you mean 'cifar10'" in refusal(here, "data", verb, "cifar1")
    (tmp_path / "mine.npz").write_bytes(b"not an archive")
    assert "mine.npz" in refusal(here, "data", "list", "mine", "--data-dir", tmp_path)
    assert not here.home.exists()
