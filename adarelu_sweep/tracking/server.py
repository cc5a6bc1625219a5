"""The life of the home's own MLflow server: started once, joined by all, up until it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from random import randrange
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from filelock import FileLock
from pydantic import Field, TypeAdapter

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.home import Home
from adarelu_sweep.tracking import artifact_place, authentication, first_start
from adarelu_sweep.tracking.database import database_of
from adarelu_sweep.tracking.half_uploads import remove_half_uploads
from adarelu_sweep.tracking.hanging import Vigil
from adarelu_sweep.tracking.listening import (
    HOST,
    address_of,
    allowed_patterns,
    browsed_names,
    choose_port,
    is_loopback,
)

FIRST_PORT = 5000
_PORTS = 1000  # from the first on, among which several servers that start at once spread
_START_TIMEOUT = 120.0  # seconds
_START_ATTEMPTS = 5
_CLOCK_STEP = 60.0  # seconds by which the wall clock may be set while a server runs


@dataclass(frozen=True)
class Server:
    """A running MLflow server of a home."""

    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process_started: Annotated[float, Field(gt=0, lt=1e11)]
    port: Annotated[int, Field(gt=0, lt=2**16)]
    host: Annotated[str, Field(pattern=r"^[\w.:-]+$")] = HOST
    asks: bool = False
    """Whether it asks for a user and password."""

    @property
    def url(self) -> str:
        """Its address, for browsers and clients of this machine."""
        return f"http://{address_of(self.host)}:{self.port}"

    def is_alive(self) -> bool:
        """Return whether the process still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and self._is(process)
        except psutil.Error:
            return False

    def processes(self) -> list[psutil.Process]:
        """Return its processes: those of its session, whose leader may be dead already."""
        if not self._may_have_a_session():
            return []
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _may_have_a_session(self) -> bool:
        """Return whether a session with the server's number can be the server's.

        As long as a session lives, no other process gets its number. So it is another's if another
        process has the number now, or if the machine was started after the server.
        """
        if psutil.boot_time() > self.process_started + _CLOCK_STEP:
            return False
        try:
            return self._is(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    def _is(self, process: psutil.Process) -> bool:
        """Return whether a process with the server's number is the one that was recorded."""
        return bool(abs(process.create_time() - self.process_started) < _CLOCK_STEP)

    def _owns(self, process: psutil.Process) -> bool:
        try:
            in_session = os.getsid(process.pid) == self.pid
            return in_session and process.create_time() > self.process_started - _CLOCK_STEP
        except (OSError, psutil.Error):
            return False

    def answers(self) -> bool:
        """Return whether the server says that it is healthy, and not another one on its port."""
        try:
            with urlopen(f"{self.url}/health", timeout=2) as response:
                healthy = response.status == 200
        except (URLError, OSError, ValueError):
            return False
        return healthy and any(self._listens(process) for process in self.processes())

    def _listens(self, process: psutil.Process) -> bool:
        try:
            return any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
                for connection in process.net_connections(kind="tcp")
            )
        except psutil.Error:
            return False


def find_server(home: Home) -> Server | None:
    """Return the home's server if its process runs; it may still be starting."""
    server = _recorded(home)
    return server if server is not None and server.is_alive() else None


def ensure_server(
    home: Home,
    port: int | None = None,
    host: str | None = None,
    auth: bool | None = None,
    allowed_hosts: Sequence[str] = (),
    artifacts: str | None = None,
) -> Server:
    """Join the home's server or start one, and return once it answers.

    Args:
        home: The home whose records the server serves.
        port: The port wanted; by default the first free one from 5000. Raises UserError if it is
            taken, or if the server already listens on another.
        host: The address to listen on, by default loopback. Raises UserError for another one where
            the server asks nobody for a password.
        auth: Switch MLflow's authentication of this home on or off; None leaves it as it is.
        allowed_hosts: Names under which browsers reach it, beside those of this machine.
        artifacts: The folder, or the address in an object store, in which the home's artifacts are
            kept from now on; None leaves it as it is. Raises UserError where that cannot be.

    Raises UserError, too, where the place of the artifacts is not there: a folder that is not
    mounted would be served empty.
    """
    home.create()
    asks = authentication.is_on(home) if auth is None else auth
    if not asks and not is_loopback(host or HOST):
        raise UserError(
            f"--host {host} lets others reach the server: add --auth, with an administrator's user "
            f"and password in {authentication.USER} and {authentication.PASSWORD}"
        )
    if artifact_place.is_chosen(home, artifacts) and find_server(home) is None:
        artifact_place.require_ours(home)  # outside the lock, because a store may take a minute
    # Between the choice of a free port and its use, another server may have taken it.
    for attempt in range(_START_ATTEMPTS if port is None else 1):
        with _lock(home):
            server = find_server(home)
            if server is None:
                _clear(home)  # a killed server may have left a process on its port
                # Who has lost the race for a port looks elsewhere, or would lose the next one too.
                first = FIRST_PORT + (randrange(_PORTS) if attempt else 0)
                chosen = choose_port(host or HOST, port, first)
                if artifacts is not None:
                    artifact_place.choose(home, artifacts)
                if auth is not None:
                    authentication.switch(home, auth)
                server = _start(home, chosen, host or HOST, asks, allowed_hosts)
            elif server != replace(
                server,
                port=port or server.port,
                host=host or server.host,
                asks=server.asks if auth is None else auth,
            ) or not artifact_place.is_chosen(home, artifacts):
                raise UserError(
                    f"the server of this home is already up at {server.url}"
                    f"{'' if server.asks else ', without --auth'}; use that, or stop it with "
                    "'adarelu-sweep server stop'"
                )
        if _comes_up(server):
            _conclude_first_start(home, server)
            return server
        _give_up(home, server)
    raise UserError(f"the MLflow server did not come up; its log is {home.server_log}")


def _conclude_first_start(home: Home, server: Server) -> None:
    if first_start.is_pending(home):
        with _lock(home):
            if _recorded(home) == server:  # and not one that was started after its end
                first_start.conclude(home)


def _give_up(home: Home, server: Server) -> None:
    """Make room for another server in place of one that does not answer."""
    with _lock(home):
        if _recorded(home) == server:
            _clear(home, at_once=True)


def stop_server(home: Home) -> Server | None:
    """Stop the home's server with all its processes; return it, or None if none was up."""
    if not home.root.is_dir():
        return None
    with _lock(home):
        return _clear(home)


@contextmanager
def kept_down(home: Home) -> Iterator[None]:
    """Have no server of the home: whoever starts one waits. Raises UserError if one is up."""
    with _lock(home):
        server = _recorded(home)
        if server is not None and server.processes():
            raise UserError(
                f"the server of {home.root} is up at {server.url}: stop it first with "
                "'adarelu-sweep server stop'"
            )
        yield


def _lock(home: Home) -> FileLock:
    return FileLock(home.root / "server.lock")


def _clear(home: Home, at_once: bool = False) -> Server | None:
    server = _recorded(home)
    stopped = server is not None and _end(server, at_once)
    home.server_file.unlink(missing_ok=True)
    return server if stopped else None


def _recorded(home: Home) -> Server | None:
    try:
        return TypeAdapter(Server).validate_json(home.server_file.read_bytes())
    except (OSError, ValueError):
        return None


def _end(server: Server, at_once: bool) -> bool:
    """End every process of a server; return whether there was any."""
    processes = server.processes()
    for end in (psutil.Process.terminate, psutil.Process.kill)[at_once:]:
        for process in processes:
            with suppress(psutil.Error):
                end(process)
        if not psutil.wait_procs(processes, timeout=10)[1]:
            break
    return bool(processes)


def _start(home: Home, port: int, host: str, asks: bool, allowed_hosts: Sequence[str]) -> Server:
    database = database_of(home)
    home.server_log.parent.mkdir(parents=True, exist_ok=True)
    first_start.prepare(home)
    remove_half_uploads(home.artifacts)
    # Nothing of the user's own, neither a tracking server nor what would open this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {
        # One process and no job runner: a third of the time and memory of the default.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_BACKEND_STORE_URI": database,
    }
    environment |= artifact_place.server_environment(home.artifacts)
    if asks:
        environment |= authentication.server_environment(home)
    names = browsed_names(host, allowed_hosts)
    with home.server_log.open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--artifacts-destination", str(home.artifacts)),
                *("--host", host, "--port", str(port), "--workers", "1"),
                # Against other names that lead here, and against pages from elsewhere.
                *("--allowed-hosts", ",".join(allowed_patterns(names))),
                *("--cors-allowed-origins", ",".join(f"http://{name}:{port}" for name in names)),
                *(("--app-name", "basic-auth") if asks else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.root,
            env=environment,
            umask=0o077,
            start_new_session=True,  # it outlives the sweep that started it
        )
    try:
        started = psutil.Process(process.pid).create_time()
        server = Server(process.pid, started, port, host, asks)
        write_atomically(home.server_file, json.dumps(asdict(server)).encode())
    except BaseException:  # unrecorded it would live on, and nobody could stop it
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return server


def _comes_up(server: Server) -> bool:
    """Wait until a server answers; return False if it ended, hangs or took too long."""
    deadline = time.monotonic() + _START_TIMEOUT
    vigil = Vigil(server.processes)
    while not server.answers():
        if not server.is_alive() or vigil.hangs() or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
