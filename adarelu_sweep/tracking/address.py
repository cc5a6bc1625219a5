"""The tracking server's address: without secrets where it is kept, and asked before it is used."""

import os
import re
import threading
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from adarelu_sweep.errors import UserError

_ANSWER_TIMEOUT = 6.0  # a user is told within 10 s in all, the start of the command included


def take_credentials(uri: str) -> str:
    """Return the address without user and password, which go where MLflow's client looks for them.

    They are kept in this process's environment alone.
    """
    parts = _split(uri)
    if parts.scheme not in {"http", "https"} or "@" not in parts.netloc:
        return uri
    if parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def without_password(uri: str) -> str:
    """Return the address as it may be kept and shown."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1@", uri)


def with_password(kept: str) -> str:
    """Return a kept address with the password that ``MLFLOW_TRACKING_URI`` has for it, if any."""
    here = os.environ.get("MLFLOW_TRACKING_URI", "")
    return here if here and kept in {without_password(here), _without_user(here)} else kept


def require_answer(uri: str) -> None:
    """Raise UserError unless the tracking server answers within seconds.

    Addresses that are not http are MLflow's to judge: a file or a database answers at once.
    """
    scheme = _split(uri).scheme
    if scheme not in {"http", "https"}:
        kind = scheme.partition("+")[0]  # a database may name its driver, as in mysql+pymysql
        if kind not in {"", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks"}:
            raise _not_an_address(uri)
        if not scheme and re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):  # 127.0.0.1:5000
            raise _not_an_address(uri)
        return
    # A thread, because a timeout of urlopen is one of each step: of every address that the name
    # stands for, and of every line of an answer that trickles in.
    problems: list[str | None] = []
    asking = threading.Thread(target=lambda: problems.append(_ask(uri)), daemon=True)
    asking.start()
    asking.join(_ANSWER_TIMEOUT)
    problem = problems[0] if problems else f"nothing within {_ANSWER_TIMEOUT:.0f} s"
    if problem is not None:
        raise UserError(
            f"the tracking server {uri} does not answer ({problem}): start it, correct the "
            "address, or leave --tracking-uri out to use the home's own"
        )


def _ask(uri: str) -> str | None:
    """Return what is wrong with the server's answer, or None."""
    request = Request(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urlopen(request, timeout=_ANSWER_TIMEOUT):
            return None
    except HTTPError as error:
        if error.code in {401, 403}:
            return None  # it answers; MLflow's client will bring the credentials
        return f"it says {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        said = str(getattr(error, "reason", error)) or type(error).__name__
        return " ".join(said.split())


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:
        raise _not_an_address(uri) from None


def _without_user(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def _not_an_address(uri: str) -> UserError:
    return UserError(
        f"{_without_user(uri)}: not a tracking address; give one such as http://127.0.0.1:5000"
    )


def charts_address(uri: str, experiment: str) -> str:
    """Return where MLflow's UI compares an experiment's runs; its start page shows other things.

    ``experiment`` is the experiment's id; without one the address of the server is returned.
    """
    if not experiment:
        return uri
    shown = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"{uri}/#/experiments/{experiment}/runs?{shown}"
