"""Keeping passwords out of whatever is shown or kept. Errors quote the addresses they are about."""

import os
import re
from urllib.parse import quote, quote_plus, unquote

_HIDDEN = "***"
# Up to the last "@" before the path: a password may hold one that nobody escaped.
_IN_ADDRESS = re.compile(r"(//[^/@:\s]*):([^/\s]*)@")
_IN_QUERY = re.compile(r"([?&;](?:\w*password|passwd|pwd)=)([^&;\s]*)", re.IGNORECASE)
_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_AUTH_ADMIN_PASSWORD")
_LEAST = 4  # characters; to hide what is shorter would hide half of every message


def concealed(text: str) -> str:
    """Return a text without passwords: those of addresses in it, and those of the environment."""
    text = _IN_QUERY.sub(rf"\1{_HIDDEN}", _IN_ADDRESS.sub(rf"\1:{_HIDDEN}@", text))
    for secret in _of_the_environment():
        for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(form, _HIDDEN)
    return text


def in_one_line(error: BaseException) -> str:
    """Return the first line that an exception says, or its kind where it says nothing."""
    said = str(error).strip().splitlines()
    return concealed(said[0]) if said else type(error).__name__


def password_in(address: str) -> str | None:
    """Return the password that an address holds, as it stands there; None if there is none."""
    found = _IN_ADDRESS.search(address) or _IN_QUERY.search(address)
    return found[2] or None if found else None


def without_password(address: str) -> str:
    """Return the address as it may be kept and shown."""
    bare = _IN_QUERY.sub(lambda found: found[0][0], _IN_ADDRESS.sub(r"\1@", address))
    return re.sub(r"([?&;])[&;]+", r"\1", bare).rstrip("?&;")


def _of_the_environment() -> list[str]:
    secrets = [os.environ.get(name, "") for name in _VARIABLES]
    if written := password_in(os.environ.get("MLFLOW_TRACKING_URI", "")):
        secrets += [written, unquote(written)]
    return sorted({s for s in secrets if len(s) >= _LEAST}, key=len, reverse=True)
