"""What containers start with, run here without one; ``make images`` runs the images themselves."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.sweeps import Command, environment
from tests.test_closed import asked
from tests.waiting import wait_until

FOLDER = Path(__file__).parents[1] / "docker"
SECRETS = {
    "mlflow-password",
    "flask-key",
    "postgres-password",
    "pgpass",
    "s3-key",
    "aws",
    "s3.json",
}


def make_secrets(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    subprocess.run([sys.executable, FOLDER / "make_secrets.py", folder], check=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_made_once_each_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "postgres-password").write_text("of their own\n")
    made = make_secrets(folder)
    assert set(made) == SECRETS
    assert made["pgpass"] == "*:*:*:sweep:of their own\n"
    assert len(made["mlflow-password"]) >= 12
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert {mode for name, mode in files.items() if name != "postgres-password"} == {0o400}
    assert make_secrets(folder) == made
    assert make_secrets(tmp_path / "other")["mlflow-password"] != made["mlflow-password"]


def test_the_password_comes_from_the_file_that_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("from a file\n")

    def shown(**extra: str) -> "subprocess.CompletedProcess[str]":
        command = [FOLDER / "entrypoint.sh", "sh", "-c", 'echo "${MLFLOW_TRACKING_PASSWORD-none}"']
        return subprocess.run(command, capture_output=True, text=True, env=environment() | extra)

    assert shown(MLFLOW_TRACKING_PASSWORD_FILE=str(secret)).stdout == "from a file\n"
    assert shown(MLFLOW_TRACKING_PASSWORD="given").stdout == "given\n"
    assert shown().stdout == "none\n"
    missing = shown(MLFLOW_TRACKING_PASSWORD_FILE=str(tmp_path / "none"))
    assert missing.returncode != 0
    assert missing.stdout == ""


def test_what_is_built_on_and_started_is_pinned_and_nobody_is_root() -> None:
    bases = {}
    for file in (FOLDER / "Dockerfile", FOLDER / "mlflow.Dockerfile"):
        text = file.read_text()
        bases[file.name] = re.findall(r"^ARG PYTHON=(.*)$", text, re.MULTILINE)
        assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}
        assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    assert bases["Dockerfile"] == bases["mlflow.Dockerfile"]
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    for one in bases["Dockerfile"] + [s["image"] for s in services.values() if "build" not in s]:
        assert re.search(r":\d+\.\d+", one), f"{one} is not pinned"
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert {port for s in services.values() for port in s.get("ports", [])} == {
        "127.0.0.1:5000:5000"
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str, "subprocess.Popen[bytes]"]]:
    """The server's address and password, and its process, started as its container does."""
    password = make_secrets(tmp_path / "secrets")["mlflow-password"].strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("state", "tmp"):
        (tmp_path / name).mkdir()
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{_scripts_of_mlflow()}"
    surroundings = {"HOME": tmp_path / "state", "TMPDIR": tmp_path / "tmp"}
    surroundings |= {"SECRETS": tmp_path / "secrets", "HOST": "127.0.0.1", "PORT": port}
    process = subprocess.Popen(
        [sys.executable, FOLDER / "serve.py"],
        env=environment(PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}")
        | {name: str(value) for name, value in surroundings.items()},
        cwd=tmp_path / "state",
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    yield f"http://127.0.0.1:{port}", password, process
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        one.kill()
    process.wait()


def _scripts_of_mlflow() -> Path:
    """Return where the command ``mlflow`` lies, which may be another environment's folder."""
    if found := shutil.which("mlflow", path=str(Path(sys.executable).parent)):
        return Path(found).parent
    import mlflow

    return Path(mlflow.__file__).parents[4] / "bin"


@pytest.mark.long
def test_the_server_asks_everybody_and_hides_its_password(
    server: tuple[str, str, "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    url, password, process = server

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return asked(url) == 401
        except OSError:
            time.sleep(0.2)
            return False

    wait_until(answers, "the server answers")
    assert asked(url, "admin", "another password") == 401
    assert asked(url, "admin", password) == 200
    assert asked(url, "admin", password, Host="mlflow:5000") == 200
    assert asked(url, "admin", password, Host="rebound.example") == 403
    everybody = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(True))]
    for pid in everybody:
        assert password not in "\0".join(psutil.Process(pid).cmdline())
    assert (tmp_path / "tmp" / "auth.ini").stat().st_mode & 0o077 == 0
    login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
    command = Command(tmp_path / "home", MLFLOW_TRACKING_URI=url, no_proxy="*", **login)
    told = command.succeed("doctor")
    assert re.search(rf"ok +tracking +server +{url} answers \(MLflow 3", told)
