"""Closed by default: who reaches the server, where passwords are not, who may read the files."""

import base64
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from rich.console import Console
from sqlalchemy.engine import make_url

from adarelu_sweep.errors import UserError
from adarelu_sweep.filesystems import home_warnings, network_filesystem
from adarelu_sweep.home import Home
from adarelu_sweep.operating.outline import plug_ins
from adarelu_sweep.operating.sweep import Machine
from adarelu_sweep.placing.claims import Claims
from adarelu_sweep.placing.gpus import Gpu, recorded
from adarelu_sweep.secrets import concealed, password_in, without_password
from adarelu_sweep.studies.reading import read_study, study_of
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking import authentication
from adarelu_sweep.tracking.address import (
    refuse_password,
    require_answer,
    take_credentials,
    with_password,
)
from adarelu_sweep.tracking.connecting import connect
from adarelu_sweep.tracking.listening import address_of, browsed_names, is_loopback
from adarelu_sweep.tracking.server import ensure_server
from tests.proxy import Proxy
from tests.sweeps import STUDY, Command

USER, PASSWORD = "boss", "hunter2/secret@%41 x"
LOGIN = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
FORMS = {
    PASSWORD.encode(),
    quote(PASSWORD, safe="").encode(),
    base64.b64encode(f"{USER}:{PASSWORD}".encode()),
}
FEW = (
    *("--set", "matrix.seeds=1", "--set", "matrix.activation=relu", "--set", "training.epochs=1"),
    *("--set", "data.train_limit=64"),
)


def assert_nowhere(text: bytes | str, place: object) -> None:
    content = text.encode() if isinstance(text, str) else text
    assert not any(form in content for form in FORMS), f"the password is in {place}: {content!r}"


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """All command lines of the machine while it lasts, as everybody can read them."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    seen.add("\0".join(process.cmdline()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home whose server asks for a password; the user's umask keeps nobody out."""
    command = Command(tmp_path_factory.mktemp("closed") / "home", **LOGIN)
    yield command
    command.close()


def started(command: Command, *arguments: str) -> str:
    with umask(0):
        return command.succeed("server", "start", *arguments).strip()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def asked(url: str, user: str = "", password: str = "", **headers: str) -> int:
    """The status with which a server answers a search for experiments."""
    if user:
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {both}"
    request = Request(
        f"{url}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Content-Type": "application/json"} | headers,
    )
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


# The server


@pytest.mark.long
def test_beyond_loopback_the_server_asks_for_a_password(guarded: Command) -> None:
    done = guarded.run("ui", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--host 0.0.0.0 lets others reach the server: add --auth" in done.stderr
    assert not (guarded.home / "server.json").exists()
    with command_lines() as seen:
        url = started(guarded, "--host", "0.0.0.0", "--auth", "--allow-host", "lab.example")
    for line in seen:
        assert_nowhere(line, "a command line")
    assert asked(url) == 401
    assert asked(url, USER, "wrong password") == 401
    assert asked(url, USER, PASSWORD) == 200
    assert asked(url, USER, PASSWORD, Host="lab.example") == 200
    assert asked(url, USER, PASSWORD, Host="rebound.example") == 403
    assert asked(url, USER, PASSWORD, Origin="http://evil.example") == 403
    status = guarded.json("server", "status", "--json")
    assert status["asks"] is True
    port = int(url.rpartition(":")[2])
    for address in browsed_names("0.0.0.0")[3:]:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
            assert asked(url, USER, PASSWORD, Host=f"{address}:{port}") == 200
    assert "already up at" in guarded.run("server", "start", "--no-auth").stderr


@pytest.mark.long
def test_a_password_of_the_environment_is_nowhere(guarded: Command, tmp_path: Path) -> None:
    """A whole sweep against a server that asks, and that fails now and then."""
    url = started(guarded, "--auth")
    proxy = Proxy(url)
    proxy.fate = lambda _request: "pass" if not proxy.seen else "error"
    address = proxy.url.replace("//", f"//{USER}:{quote(PASSWORD, safe='')}@")
    sweeper = Command(tmp_path / "home", MLFLOW_TRACKING_URI=address)
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    said = []
    sweeper.patience = 2.0
    try:
        with command_lines() as seen, umask(0):
            said.append(sweeper.run("launch", study, "--name", "guarded", *FEW))
            assert "records cannot be delivered" in said[0].stderr
            proxy.all_are("pass")
            sweeper.patience = None
            said.append(sweeper.run("resume", "guarded"))
            assert "deliver" not in said[1].stderr
            said.append(sweeper.run("status", "guarded"))
            proxy.close()
            elsewhere = tmp_path / "elsewhere"
            said.append(sweeper.run("report", "guarded", "--output", elsewhere, "--no-figures"))
            assert "is not logged in MLflow" in said[-1].stderr
            sweeper.environment["MLFLOW_TRACKING_URI"] += ":bad:port"
            refused = sweeper.run("launch", study, "--name", "other")
    finally:
        proxy.end()
    for done in said:
        assert done.returncode == 0, done.stderr
    assert refused.returncode == 2
    for done in [*said, refused]:
        assert_nowhere(done.stdout + done.stderr, done.args)
    assert len(seen) > 5
    for line in seen:
        assert_nowhere(line, "a command line")
    for home in (sweeper.home, guarded.home):
        for path in home.rglob("*"):
            if path.is_file():
                assert_nowhere(path.read_bytes(), path)
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert path.is_symlink() or mode & 0o077 == 0, f"{path} has the mode {mode:o}"
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o777
    assert stat.S_IMODE((elsewhere / "report.html").stat().st_mode) == 0o666
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOGIN.items():
            patch.setenv(name, value)
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("guarded")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert len(runs) == 3
        for run in runs:
            assert_nowhere(json.dumps(run.to_dictionary()), run.info.run_name)


def test_who_uses_a_server_that_asks_is_told_what_is_missing(
    guarded: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = started(guarded, "--auth")
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    done = Command(guarded.home).run("launch", study, *FEW)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the server of this home asks for a user and password" in done.stderr
    home = Home(guarded.home)
    record = StudyRecord(
        uid="asked", study=read_study(study), source="", created="2026-01-01", version="0"
    )
    with pytest.raises(UserError, match="asks for a user and password"):
        connect(home, record, None)
    with pytest.raises(UserError, match="asks for a user and password: set MLFLOW_TRACKING_USER"):
        require_answer(url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another one")
    with pytest.raises(UserError, match="refuses the user and password"):
        connect(home, record, None)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    home.study_folder("small").mkdir(parents=True)
    connect(home, record, None).begin_study()


def test_what_can_be_no_server_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    for login, reason in (
        ({}, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ({"MLFLOW_TRACKING_USERNAME": "boss"}, "set MLFLOW_TRACKING_PASSWORD"),
        (LOGIN | {"MLFLOW_TRACKING_PASSWORD": "short"}, "give 12 ASCII characters"),
        (LOGIN | {"MLFLOW_TRACKING_PASSWORD": "with an umlaut ü"}, "give 12 ASCII characters"),
        (LOGIN | {"MLFLOW_TRACKING_USERNAME": "a\nb"}, "no usable name"),
    ):
        for name, value in login.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=reason):
            ensure_server(home, auth=True)
        assert not home.auth_folder.exists()
        assert not home.server_file.exists()
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    for host in ("192.0.2.1", "no such host", ";", "a" * 300):
        with pytest.raises(UserError, match="not an address of this machine"):
            ensure_server(home, host=host, auth=True)


def test_authentication_is_off_wherever_its_switching_off_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    home = Home(tmp_path / "home")
    home.create()
    authentication.switch(home, on=True)
    assert authentication.is_on(home)
    authentication.users_database(home).touch()

    def killed(_folder: Path, **_options: bool) -> None:
        (home.auth_folder / "secret-key").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            authentication.switch(home, on=False)
    assert not authentication.is_on(home)
    authentication.switch(home, on=True)
    assert authentication.server_environment(home)["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    assert not authentication.users_database(home).exists(), "with the password of an earlier one"
    authentication.switch(home, on=False)
    assert not home.auth_folder.exists()
    authentication.switch(home, on=False)


@pytest.mark.parametrize(
    ("host", "loopback", "address"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("127.1.2.3", True, "127.1.2.3"),
        ("localhost", True, "localhost"),
        ("::1", True, "[::1]"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", False, "[::1]"),
        ("10.0.0.1", False, "10.0.0.1"),
        ("localhost.example", False, "localhost.example"),
    ],
)
def test_addresses_to_listen_on(host: str, loopback: bool, address: str) -> None:
    assert is_loopback(host) is loopback
    assert address_of(host) == address
    assert {"localhost", "127.0.0.1", "[::1]"} <= set(browsed_names(host))
    assert "0.0.0.0" not in browsed_names(host)


# Passwords


@pytest.mark.parametrize(
    ("address", "password", "kept"),
    [
        ("http://u:pw@h:1/x", "pw", "http://u@h:1/x"),
        ("http://u:p@ss@h/x", "p@ss", "http://u@h/x"),
        ("postgresql+psycopg2://u:p%2Fw@h/db?x=1", "p%2Fw", "postgresql+psycopg2://u@h/db?x=1"),
        ("postgresql://h/db?user=u&password=pw&a=1", "pw", "postgresql://h/db?user=u&a=1"),
        ("mysql://h/db?passwd=pw", "pw", "mysql://h/db"),
        ("postgresql://u:pa/ss@h/db", "pa/ss", "postgresql://u@h/db"),
        ("postgresql://u:12/ss w@h/db?a=b@c", "12/ss w", "postgresql://u@h/db?a=b@c"),
        ("postgresql://me@corp:pw@h/db", "pw", "postgresql://me@corp@h/db"),
        ("http://u:x 12@h:1/x", "x 12", "http://u@h:1/x"),
        ("http://u:p/w@h:1/x", "p/w", "http://u@h:1/x"),
        ("mssql://h/db?a=b;PWD=tiger;c=d", "tiger", "mssql://h/db?a=b;c=d"),
        ("mssql://h/db?password=a b;c&d=e", "a b;c", "mssql://h/db?d=e"),
        ("mssql:///?odbc_connect=PWD={t;i}};g}er", "{t;i}};g}", "mssql:///?odbc_connect=er"),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dtiger%3BUID%3Du&a=b",
            "tiger",
            "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Du&a=b",
        ),
        (
            "mssql:///?odbc_connect=UID%3Du%3BPWD%3D%7Bti%3Bger%7D%3BA%3Db",
            "%7Bti%3Bger%7D",
            "mssql:///?odbc_connect=UID%3Du%3BA%3Db",
        ),
        ("http://u@h", None, "http://u@h"),
        ("http://h:5000/x@y", None, "http://h:5000/x@y"),
        ("http://u@h:5000/x@y", None, "http://u@h:5000/x@y"),
        ("http://[::1]:5000/x@y", None, "http://[::1]:5000/x@y"),
        ("postgresql://u@h:5432/db", None, "postgresql://u@h:5432/db"),
        ("http://h:5000", None, "http://h:5000"),
        ("sqlite:///a/b.db", None, "sqlite:///a/b.db"),
    ],
)
def test_passwords_in_addresses(address: str, password: str | None, kept: str) -> None:
    assert password_in(address) == password
    assert without_password(address) == kept
    hidden = concealed(f"cannot reach {address}: it is gone")
    assert password is None or password not in hidden
    if password is None:
        refuse_password(address)
        return
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        refuse_password(address)
    assert password not in str(raised.value).replace("password", "").replace("passwd", "")


def test_a_password_that_looks_like_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a text it cannot be told from one, but that the environment has it."""
    address = "http://u:5000 x@h"
    assert password_in(address) == "5000 x"
    assert without_password(address) == "http://u@h"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert concealed(f"no {address}: gone") == "no http://u:***@h: gone"


# What SQLAlchemy takes as it is. (What urlsplit takes of the web's addresses is less.)
RAW = st.text(st.characters(exclude_characters="@", exclude_categories=["Cs"]), min_size=1)
TEXT = st.text(min_size=1)
IN_ADDRESSES = ["postgresql://u:{}@h/db", "mysql+pymysql://me@corp:{}@h:3306/db?a=b@c"]
IN_PARAMETERS = ["mysql://h/db?user=u&password={}", "postgresql://u@h:5432?passwd={}&a=b"]
ESCAPED = [*IN_ADDRESSES, "http://u:{}@h:1/x", "https://u:{}@h", *IN_PARAMETERS]


def assert_found(place: str, written: str) -> None:
    address = place.format(written)
    bare = re.sub(r":{}(?=@)|\w+={}&|[?&]\w+={}$", "", place)
    assert password_in(address) == written
    assert without_password(address) == bare
    assert concealed(f"no {address}") == f"no {place.format('***')}"
    assert concealed(f"{address}: gone").startswith(place.format("***"))


@given(st.sampled_from(ESCAPED), TEXT)
def test_every_escaped_password_is_found(place: str, password: str) -> None:
    assert_found(place, quote(password, safe=""))


@given(st.sampled_from(IN_ADDRESSES), RAW)
def test_every_password_is_found_that_sqlalchemy_finds(place: str, written: str) -> None:
    assert make_url(place.format(written)).password == unquote(written)
    assert_found(place, written)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5001/#/experiments/2 and a@b.c",
        "http://127.0.0.1:5001: gone, (http://h:5000), 'http://[::1]:5000'; ask a@b.c",
        "see http://example: a@b.c, or https://example.com/x:y, or c@d",
        "host:5000/x@y",
        "sqlite:////a/b.db: ask a@b.c",
        "the password = x, user: a@b.c",
    ],
)
def test_text_without_a_password_stays(text: str) -> None:
    assert concealed(text) == text


def test_a_password_on_the_command_line_is_refused(tmp_path: Path, study_file: Path) -> None:
    command = Command(tmp_path / "home")
    done = command.run("launch", study_file, "--tracking-uri", "postgresql://u:hunter2@h/db")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert not command.home.exists()


def test_a_kept_address_gets_its_password_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = "postgresql://u:p%2Fw@h/db"
    assert with_password("postgresql://u@h/db") == "postgresql://u@h/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert with_password(without_password(whole)) == whole
    assert with_password("postgresql://u@other/db") == "postgresql://u@other/db"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p/w")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert with_password("postgresql://u@h/db") == whole
    assert with_password("postgresql://h/db") == "postgresql://h/db"
    assert with_password("http://u@h") == "http://u@h"
    assert with_password("sqlite:///x.db") == "sqlite:///x.db"
    assert take_credentials(whole) == whole


def test_what_the_environment_keeps_secret_is_in_no_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:other%2Fpassword@h/db")
    text = f"who is {PASSWORD}, {quote(PASSWORD, safe='')} or other/password?"
    assert concealed(text) == "who is ***, *** or ***?"


# Code of others


def test_the_code_of_others_is_listed_before_it_runs(tmp_path: Path, study_file: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit(3)\n")
    (tmp_path / "unnamed.py").write_text("raise SystemExit(4)\n")
    distribution = tmp_path / "offered-1.5.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Name: offered\nVersion: 1.5\n")
    (distribution / "entry_points.txt").write_text(
        "[adarelu_sweep.activations]\nfrom_them = theirs:Act\nanother = unnamed:Act\n"
    )
    command = Command(tmp_path / "home", PYTHONPATH=str(tmp_path))
    study = read_study(study_file, [])
    assert plug_ins(study) == []
    chosen = 'matrix.activation=["relu", "theirs:Other", "from_them"]'
    done = command.run("validate", study_file, "--set", chosen)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "plug-in activation theirs:Other: code of theirs:Other",
        "plug-in activation from_them: code of theirs:Act, of offered 1.5",
    ]
    assert "theirs:Other" in done.stderr
    assert ran.exists(), "they run in the rehearsal alone, and there they did"


# GPUs


def test_studies_of_a_home_keep_out_of_each_others_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu(index=i, uuid=f"GPU-{i}", name="Card", memory_bytes=2**34) for i in range(3)]
    listing = tmp_path / "gpus.json"
    listing.write_text(recorded(gpus))
    monkeypatch.setenv("ADARELU_SWEEP_GPU_LISTING", str(listing))
    home = Home(tmp_path / "home")
    study = study_of(tomllib.loads(STUDY), "small.toml")

    def slots(claims: Claims, request: str | None) -> tuple[set[str | None], str]:
        said = StringIO()
        found = Machine(gpus=request).slots(study, None, Console(file=said), claims)
        return {slot.gpu for slot in found}, said.getvalue()

    with Claims(home, "first") as first, Claims(home, "second") as second:
        assert slots(first, "1")[0] == {"GPU-1"}
        with pytest.raises(UserError, match="--gpus 0,1: study 'first' trains on GPU 1: wait"):
            slots(second, "0,1")
        mine, said = slots(second, None)
        assert mine == {"GPU-0", "GPU-2"}, "the refused claim left nothing behind"
        assert "GPU 1 is left out: study 'first' trains on it" in said
        with (
            Claims(home, "third") as third,
            pytest.raises(UserError, match="GPU 0: study 'second'; GPU 1: study 'first'"),
        ):
            slots(third, "all")
        with Claims(Home(tmp_path / "other"), "elsewhere") as elsewhere:
            assert len(slots(elsewhere, None)[0]) == 3, "other homes have claims of their own"
    with Claims(home, "third") as third:
        assert len(slots(third, "all")[0]) == 3


def test_the_claim_of_a_dead_process_is_gone(tmp_path: Path) -> None:
    holding = (
        "import sys, time; from pathlib import Path; from adarelu_sweep.home import Home\n"
        "from adarelu_sweep.placing.claims import Claims\n"
        "claims = Claims(Home(Path(sys.argv[1])), 'dead')\n"
        "assert not claims.take(['GPU-7'])\n"
        "print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holding, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with Claims(Home(tmp_path), "next") as claims:
        assert claims.take(["GPU-6", "GPU-7"]) == {"GPU-7": "dead"}
        process.kill()
        process.communicate()
        assert claims.take(["GPU-6", "GPU-7"]) == {}


@pytest.mark.long
def test_two_studies_launched_at_once_in_a_new_home_share_its_server(tmp_path: Path) -> None:
    command = Command(tmp_path / "home", OMP_NUM_THREADS="1")
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    names = ["one", "two"]
    try:
        started = [command.start("launch", study, "--name", name, *FEW) for name in names]
        for process in started:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
            assert "deliver" not in said
        client = MlflowClient(command.succeed("server", "start").strip())
        for name in names:
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
            runs = client.search_runs([experiment.experiment_id])
            assert sorted(run.data.tags["adarelu_sweep.kind"] for run in runs) == [
                *("arm", "study", "trial")
            ]
            assert {run.info.status for run in runs} == {"FINISHED"}
    finally:
        command.close()


# Network file systems


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/mnt/nfs/home", "nfs4"),
        ("/mnt/nfs/local/home", None),
        ("/mnt/over/deep/er", "fuse.sshfs"),
        ("/mnt/windows disk/x", None),
        ("/elsewhere", None),
    ],
)
def test_network_file_systems_are_noticed(
    monkeypatch: pytest.MonkeyPatch, place: str, kind: str | None
) -> None:
    mounts = {
        "/": "ext4",
        "/mnt/nfs": "nfs4",
        "/mnt/nfs/local": "xfs",
        "/mnt/over": "fuse.sshfs",
        "/mnt/windows disk": "fuseblk",
    }
    parts = [SimpleNamespace(mountpoint=where, fstype=what) for where, what in mounts.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    assert network_filesystem(Path(place)) == kind
    warnings = home_warnings(Path(place))
    assert bool(warnings) == (kind is not None)
    assert kind is None or f"network file system ({kind})" in warnings[0]
