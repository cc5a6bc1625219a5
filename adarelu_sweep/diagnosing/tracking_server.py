"""The tracking server that a sweep would use: the home's own, or another."""

from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from adarelu_sweep.diagnosing.database import connect
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.home import Home
from adarelu_sweep.secrets import without_password
from adarelu_sweep.tracking.address import credentials_header, problem_with
from adarelu_sweep.tracking.server import find_server

_AREA = "tracking"
_LONGEST = 40  # characters of a version


def own_server(home: Home) -> Finding:
    """Say whether the home's own server is up, where, and whether it answers."""
    name = "home's server"
    server = find_server(home)
    if server is None:
        found = "not up: a sweep starts it, and so does 'adarelu-sweep server start'"
        return Finding(_AREA, name, State.ABSENT, found)
    if not server.answers():
        remedy = f"wait, or 'adarelu-sweep server stop'; its log is {home.server_log}"
        found = f"{server.url} (process {server.pid}) does not answer"
        return Finding(_AREA, name, State.FAILED, found, remedy)
    if problem := problem_with(server.url):
        return Finding(_AREA, name, State.FAILED, problem)
    return Finding(_AREA, name, State.OK, f"{server.url} answers{_version(server.url)}")


def other_server(uri: str) -> Finding:
    """Say whether the server that was asked for answers; ``uri`` may be a database or a folder."""
    problem = problem_with(uri)
    if problem:
        return Finding(_AREA, "server", State.FAILED, problem)
    scheme = urlsplit(uri).scheme
    if scheme in {"http", "https"}:
        return Finding(_AREA, "server", State.OK, f"{uri} answers{_version(uri)}")
    if scheme in {"", "file"}:
        return _folder(uri)
    if scheme == "databricks":
        return Finding(_AREA, "server", State.ABSENT, f"{uri} is not looked at")
    return _database(uri)


def _version(uri: str) -> str:
    """Return what a server says of itself; nothing where it does not."""
    try:
        asking = Request(f"{uri.rstrip('/')}/version", headers=credentials_header())
        with urlopen(asking, timeout=3) as answer:
            said = answer.read(_LONGEST).decode("ascii")
    except (OSError, HTTPException, ValueError):
        return ""
    return f" (MLflow {said})"


def _folder(uri: str) -> Finding:
    folder = Path(url2pathname(urlsplit(uri).path))
    if folder.is_dir():
        return Finding(_AREA, "folder", State.OK, f"{folder} is there")
    return Finding(_AREA, "folder", State.ABSENT, f"{folder} is not there: MLflow makes it")


def _database(uri: str) -> Finding:
    """Connect to a database and look whether MLflow's tables are there."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    shown = without_password(uri)
    try:
        url = make_url(uri)
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and not Path(file).exists():
            return Finding(
                _AREA, "database", State.ABSENT, f"{shown} is not there: MLflow makes it"
            )
        how = {"creator": lambda: connect(Path(file))} if file else {}
        with closing(create_engine(url, poolclass=NullPool, **how).connect()) as connection:
            ours = inspect(connection).has_table("experiments")
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        remedy = "correct the address, start the database, or install its driver"
        return Finding(_AREA, "database", State.FAILED, f"{shown}: {reason}", remedy)
    state = "with MLflow's tables" if ours else "without MLflow's tables, which it makes"
    return Finding(_AREA, "database", State.OK, f"{shown} answers, {state}")
