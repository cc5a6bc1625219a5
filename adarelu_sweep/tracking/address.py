"""The tracking server's address: without secrets where it is kept, and asked before it is used."""

import base64
import os
import re
import threading
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from adarelu_sweep.errors import UserError
from adarelu_sweep.secrets import concealed, password_in, without_password

_ANSWER_TIMEOUT = 6.0  # a user is told within 10 s in all, the start of the command included
_WHO = "who is it?"  # a problem of its own


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


def refuse_password(uri: str) -> None:
    """Raise UserError for an address from the command line, which all may read, with a password."""
    if password_in(uri):
        raise UserError(
            "--tracking-uri holds a password, and all on this machine can read command lines: "
            f"give {without_password(uri)}, and the password in MLFLOW_TRACKING_PASSWORD, or give "
            "the whole address in MLFLOW_TRACKING_URI"
        )


def with_password(kept: str) -> str:
    """Return an address with the password that the environment has for it, if any.

    That is the one in ``MLFLOW_TRACKING_URI``, where it is the same address, or for a database
    ``MLFLOW_TRACKING_PASSWORD``. (For http MLflow's client looks there itself.)
    """
    here = os.environ.get("MLFLOW_TRACKING_URI", "")
    if here and kept in {without_password(here), _without_user(here)}:
        return here
    parts, password = _split(kept), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme in {"http", "https"} or not (user and password) or ":" in user:
        return kept
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}{at}{host}"))


def require_answer(uri: str) -> None:
    """Raise UserError unless the tracking server answers within seconds."""
    if problem := problem_with(uri):
        raise UserError(problem)


def problem_with(uri: str) -> str | None:
    """Return why the tracking server cannot be used and what to do, in one line, or None.

    Takes seconds at most. Addresses that are not http are MLflow's to judge: a file or a database
    answers at once. Raises UserError for what is no address.
    """
    scheme = _split(uri).scheme
    if scheme not in {"http", "https"}:
        kind = scheme.partition("+")[0]  # a database may name its driver, as in mysql+pymysql
        if kind not in {"", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks"}:
            raise _not_an_address(uri)
        if not scheme and re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):  # 127.0.0.1:5000
            raise _not_an_address(uri)
        return None
    # A thread, because a timeout of urlopen is one of each step: of every address that the name
    # stands for, and of every line of an answer that trickles in.
    problems: list[str | None] = []
    asking = threading.Thread(target=lambda: problems.append(_ask(uri)), daemon=True)
    asking.start()
    asking.join(_ANSWER_TIMEOUT)
    problem = problems[0] if problems else f"nothing within {_ANSWER_TIMEOUT:.0f} s"
    if problem == _WHO:
        does = "refuses the" if os.environ.get("MLFLOW_TRACKING_PASSWORD") else "asks for a"
        return (
            f"the tracking server {uri} {does} user and password: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if problem is None:
        return None
    return (
        f"the tracking server {uri} does not answer ({problem}): start it, correct the address, or "
        "leave --tracking-uri out to use the home's own"
    )


def _ask(uri: str) -> str | None:
    """Return what is wrong with the server's answer, or None."""
    headers = {"Content-Type": "application/json", **credentials_header()}
    request = Request(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers=headers,
        method="POST",
    )
    try:
        with urlopen(request, timeout=_ANSWER_TIMEOUT):
            return None
    except HTTPError as error:
        if error.code == 401:
            return _WHO
        if error.code == 403:
            return None  # it answers, and knows the user
        return f"it says {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        said = str(getattr(error, "reason", error)) or type(error).__name__
        return concealed(" ".join(said.split()))


def credentials_header() -> dict[str, str]:
    """Return the header that MLflow's client will send."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:
        raise _not_an_address(uri) from None


def _without_user(uri: str) -> str:
    return re.sub(r"//[^/]*@", "//", without_password(uri))


def _not_an_address(uri: str) -> UserError:
    return UserError(
        f"{_without_user(uri)}: not a tracking address; give one such as http://127.0.0.1:5000"
    )


def charts_address(uri: str, experiment: str) -> str:
    """Return where MLflow's UI compares an experiment's runs; its start page shows other things.

    ``experiment`` is the experiment's id; without one, and of what is no server, the address itself
    is returned. It holds no password.
    """
    shown_uri = without_password(uri)
    if not experiment or not uri.startswith("http"):
        return shown_uri
    shown = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"{shown_uri}/#/experiments/{experiment}/runs?{shown}"
