"""A PostgreSQL server of the tests' own, Debian's, in a temporary folder and on a free port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    import psycopg

PASSWORD = "pg p@ss:word/1"  # as awkward in an address as one may be
ESCAPED = "pg%20p%40ss%3Aword%2F1"
_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _program(name: str) -> str | None:
    found = shutil.which(name)
    return found or next((str(place / name) for place in _PLACES if (place / name).exists()), None)


class PostgresServer:
    """A running server; nobody gets in without the password."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._names = (f"db{number}" for number in count())
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port: int = listening.getsockname()[1]
        secret = folder / "password"
        secret.write_text(PASSWORD)
        for path in (folder, secret):
            if os.getuid() == 0:
                shutil.chown(path, "postgres", "postgres")
        how = ["--auth=scram-sha-256", f"--pwfile={secret}", "--username=sweeper", "--no-sync"]
        self._run("initdb", f"--pgdata={self._data}", *how)
        self.start()

    def start(self) -> None:
        settings = f"-p {self.port} -h 127.0.0.1 -c unix_socket_directories= -c max_connections=60"
        self._control("start", "-l", str(self._log), "-o", settings)

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "-m", mode)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have all its processes stand still; the kernel goes on acknowledging what is sent."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        postmaster.suspend()  # it starts no others from now on
        processes = [postmaster, *postmaster.children()]
        try:
            for process in processes:
                process.suspend()
            yield
        finally:
            for process in reversed(processes):
                process.resume()

    def cut_off(self, application: str) -> None:
        """End the connections of who has named itself like this, as SQL's LIKE has it."""
        with self._connected() as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE %s",
                (application,),
            ).fetchall()
        assert ended

    def database(self) -> str:
        """Make an empty database, and return its address."""
        name = next(self._names)
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def address(
        self, name: str, scheme: str = "postgresql+psycopg", password: str = ESCAPED
    ) -> str:
        who = f"sweeper:{password}" if password else "sweeper"
        return f"{scheme}://{who}@127.0.0.1:{self.port}/{name}"

    def _connected(self) -> "psycopg.Connection":
        import psycopg  # here: every test file's collection imports this one

        return psycopg.connect(self.address("postgres", "postgresql"), autocommit=True)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", *arguments)

    def _run(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        # It refuses to run as root.
        who = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        subprocess.run(
            [program, *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            **who,  # type: ignore[call-overload]
        )


def why_not() -> str | None:
    """Return why no server can be started here."""
    if not (_program("initdb") and _program("pg_ctl")):
        return "needs Debian's postgresql"
    if os.getuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "needs a user postgres, as Debian's postgresql makes it"
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for the whole session; a test that stops it starts it again."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop("immediate")
