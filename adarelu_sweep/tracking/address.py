"""The tracking server's address: without secrets where it is kept, and asked before it is used."""

import os
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from adarelu_sweep.errors import UserError

_ANSWER_TIMEOUT = 8.0


def take_credentials(uri: str) -> str:
    """Return the address without user and password, which go where MLflow's client looks for them.

    They are kept in this process's environment alone.
    """
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or "@" not in parts.netloc:
        return uri
    if parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = parts.username
    if parts.password:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = parts.password
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def require_answer(uri: str) -> None:
    """Raise UserError unless the tracking server answers within seconds.

    Addresses that are not http are MLflow's to judge: a file or a database answers at once.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in {"http", "https"}:
        if scheme in {"", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks"}:
            return
        raise UserError(f"{uri}: not a tracking address; give one such as http://127.0.0.1:5000")
    endpoint = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    request = Request(
        endpoint,
        data=b'{"max_results": 1}',
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urlopen(request, timeout=_ANSWER_TIMEOUT):
            return
    except HTTPError as error:
        if error.code in {401, 403}:
            return  # it answers; MLflow's client will bring the credentials
        reason = f"it says {error.code} {error.reason}"
    except (URLError, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise UserError(
        f"the tracking server {uri} does not answer ({reason}): start it, correct the address, "
        "or leave --tracking-uri out to use the home's own"
    )
