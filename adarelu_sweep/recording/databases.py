"""Where Optuna's book lies: in a file of the home, or on a PostgreSQL server.

On a server, the right to write a study's book is an advisory lock of the one connection that
writes: a write without the right to it is not possible, the server takes the lock back when its
holder dies, and a connection that replaces a lost one has the lock again before it is used. While
a server hangs it keeps the lock for the connection that was given up (``silence``), whose last
statement it may still carry out: the next connection ends that one, and writes only once its lock
is free. Who had the right last stands in a table beside Optuna's, so that a supervisor that was cut
off does not go on with what another one has had, and left, meanwhile.
"""

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from adarelu_sweep.errors import UserError
from adarelu_sweep.filesystems import network_filesystem
from adarelu_sweep.recording.opening import (
    BUSY_TIMEOUT_SECONDS,
    AloneConnection,
    make,
    refuse_others,
    require_optunas,
    set_journal,
)
from adarelu_sweep.secrets import without_password

# Who it is, as the server's list of connections shows it; other machines read it there. Host and
# process id alone are not enough: two containers may have the same.
_WHO = f"adarelu-sweep {os.getpid()} {uuid.uuid4().hex[:8]} {socket.gethostname()}"[:63]
_WRITTEN = re.compile(r"adarelu-sweep (\d+) \w+ (.+)")
_CONNECT_TIMEOUT = 10  # seconds
_LOST = 60_000  # milliseconds after which what was sent and not acknowledged means a lost host
# Of a host that is gone each side hears within a minute: the server takes its lock back, and the
# supervisor is told. Idle connections are probed; those with something under way have _LOST.
_SERVER_SIDE = (
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
    f"-c tcp_user_timeout={_LOST}"
)
_CLIENT_SIDE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_MAKING = "the tables"  # a lock's name, which no study can have


def open_file(path: Path, alone: bool = False) -> RDBStorage:
    """Open an SQLite file, making it if need be; if ``alone``, keep all others out."""
    if not path.parent.is_dir():
        raise RuntimeError("there is no such folder")
    if path.is_dir():
        raise RuntimeError("it is a folder")
    # Optuna makes its tables without a thought of others who do so at the same time.
    with FileLock(path.with_name(f"{path.name}.lock")):
        refuse_others(path, alone)
        if not path.exists() or path.stat().st_size == 0:
            make(path)
        how: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}}
        if alone:  # one connection, which would keep a second one out
            how["poolclass"] = StaticPool
            how["connect_args"]["factory"] = AloneConnection
        storage = RDBStorage(f"sqlite:///{path}", engine_kwargs=how)
    journal = "WAL" if network_filesystem(path) is None else "DELETE"
    event.listen(storage.engine, "connect", partial(set_journal, journal))
    storage.engine.dispose()  # the connections made before the listener was there
    try:
        with storage.engine.connect() as connection:
            found = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise RuntimeError("it is damaged")
    except BaseException:
        storage.engine.dispose()
        raise
    return storage


def open_server(address: str, existing: bool = False) -> RDBStorage:
    """Open a database of a PostgreSQL server, making Optuna's tables if it has none.

    If it is to be an ``existing`` one, NoStudiesError is raised instead.

    A lost connection is replaced when it is next needed. There is one at a time, so that whoever
    holds a lock writes with it.
    """
    # psycopg is there only where a server is used.
    from adarelu_sweep.recording.silence import connector

    arguments = connection_arguments(address, _SERVER_SIDE)
    how: dict[str, Any] = {"creator": connector(address, arguments)}
    engine = create_engine(address, **how)
    try:
        with engine.connect() as connection, _locked(connection, _MAKING):
            tables = set(inspect(connection).get_table_names())
            require_optunas(tables)
            if existing and not tables:
                shown = without_password(address)
                raise NoStudiesError(
                    f"no studies in {shown}: launch one, or give another --storage"
                )
            RDBStorage(address, engine_kwargs=how).engine.dispose()  # takes two connections at once
    finally:
        engine.dispose()
    how |= {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 0}
    return RDBStorage(
        address, engine_kwargs=how, skip_compatibility_check=True, skip_table_creation=True
    )


def connection_arguments(address: str, options: str) -> dict[str, Any]:
    """Return what each connection is made with; options that the address has come first."""
    given = make_url(address).query.get("options", "")
    several = (given,) if isinstance(given, str) else given
    return {
        "connect_timeout": _CONNECT_TIMEOUT,
        "application_name": _WHO,
        "options": " ".join([*several, options]).strip(),
        "tcp_user_timeout": _LOST,
        **_CLIENT_SIDE,
    }


class NoStudiesError(UserError):
    """A database that has no tables yet."""


def server_address(given: str, option: str = "--storage") -> str:
    """Return an address as SQLAlchemy takes it; raise UserError for what is none of PostgreSQL.

    ``option`` is what it was given by.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise _not_an_address(option) from None
    if url.drivername not in {"postgresql", "postgres", "postgresql+psycopg"} or not url.database:
        raise _not_an_address(option)
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UserError(
            "a PostgreSQL storage needs psycopg: pip install 'adarelu-sweep[postgresql]'"
        ) from None
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _not_an_address(option: str) -> UserError:
    return UserError(
        f"{option} is no address of a PostgreSQL database: "
        "give one such as postgresql+psycopg://USER@HOST/DATABASE"
    )


class TakenError(UserError):
    """A study's book belongs to another supervisor."""


@contextmanager
def owned(engine: Engine, study: str) -> Iterator[None]:
    """Have the right to write a study's book; raise TakenError, saying who has it, if one does.

    A file has no such right of its own: there the lease in the home is enough.
    """
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.connect() as connection, _locked(connection, _MAKING):
        if not inspect(connection).has_table(_HOLDERS):
            connection.exec_driver_sql(_MAKE_HOLDERS)
            connection.commit()
    take = _Right(study).take
    event.listen(engine, "connect", take)
    engine.dispose()
    try:
        with engine.connect():
            pass
        yield
    finally:
        event.remove(engine, "connect", take)
        engine.dispose()


def owner(engine: Engine, study: str) -> tuple[int, str, str] | None:
    """Return who has the right to write a study's book: process, host, and since when."""
    if engine.dialect.name == "sqlite":
        return None
    with engine.connect() as connection:
        found = connection.exec_driver_sql(_HOLDER, _halves(study)).one_or_none()
    who = _WRITTEN.fullmatch(found.application_name) if found else None
    return (int(who[1]), who[2], found.since) if found and who else None


_HOLDER = """
SELECT a.pid, a.application_name,
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"') AS since
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
JOIN pg_database d ON d.oid = l.database
WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
  AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.objsubid = 1
"""


# Whoever takes a study's lock and finds a token of another there was not the last to have it.
_HOLDERS = "adarelu_sweep_holders"
_MAKE_HOLDERS = f"CREATE TABLE {_HOLDERS} (study text PRIMARY KEY, token text NOT NULL)"
_LAST = f"SELECT token FROM {_HOLDERS} WHERE study = %s"
_NOW = f"""
INSERT INTO {_HOLDERS} VALUES (%s, %s)
ON CONFLICT (study) DO UPDATE SET token = excluded.token
"""


class _Right:
    """The right to write a study's book, which a connection takes when it is made."""

    def __init__(self, study: str) -> None:
        self._study = study
        self._token = ""

    def take(self, connection: Any, _record: Any) -> None:
        """Take the lock, for the first time or after the loss of a connection that had it."""
        with connection.cursor() as cursor:
            self._lock(connection, cursor)
            if self._token:
                cursor.execute(_LAST, [self._study])
                if cursor.fetchone() != (self._token,):
                    raise TakenError(
                        f"study {self._study!r} was run by another process while the database was "
                        f"out of reach: 'adarelu-sweep resume {self._study}' goes on from there"
                    )
                connection.commit()
            else:
                token = uuid.uuid4().hex
                cursor.execute(_NOW, [self._study, token])
                connection.commit()
                self._token = token

    def _lock(self, connection: Any, cursor: Any) -> None:
        study = self._study
        for _attempt in range(2):
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_key(study)])
            if cursor.fetchone()[0]:
                return
            cursor.execute(_HOLDER, _halves(study))
            holder = cursor.fetchone()
            # A connection of this process whose loss the server has not noticed yet.
            if holder and holder[1] == _WHO:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [holder[0]])
        if holder and holder[1] == _WHO:
            raise connection.OperationalError("it does not let go of the lost connection")
        who = _WRITTEN.fullmatch(holder[1]) if holder else None
        by = f"process {who[1]} on {who[2]}" if who else "another process"
        raise TakenError(
            f"study {study!r} is being run by {by}: wait for it, or stop it there first"
        )


@contextmanager
def _locked(connection: Connection, what: str) -> Iterator[None]:
    key = {"key": _key(what)}
    connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)


def _key(name: str) -> int:
    """Return the number, signed, 64 bits, by which the server knows a lock."""
    hashed = hashlib.sha256(f"adarelu-sweep/{name}".encode()).digest()
    return int.from_bytes(hashed[:8], signed=True)


def _halves(study: str) -> tuple[int, int]:
    """Return a lock's number as the server lists it."""
    return divmod(_key(study) % 2**64, 2**32)
