"""Keeping passwords out of whatever is shown or kept. Errors quote the addresses they are about."""

import os
import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_HIDDEN = "***"


def _address(after_port: str) -> re.Pattern[str]:
    """Return what finds the password of an address: all up to the first "@", as SQLAlchemy does it.

    And beyond, if another "@" comes before the path: a password may hold one that nobody escaped.
    Other than a database's address, one of the web is none with a password where a port, and
    ``after_port``, stands in its place.
    """
    database = r"\b(?!https?:)[\w+]+://[^/:]*"
    web = r"//[^/:\s]*"
    host_and_port = rf"//(?:[^/:@\s]*@)?(?:\[[\da-f:.]*\]|[^/:\s]*)(?::\d*)?{after_port}"
    return re.compile(
        rf"({database}|(?!{host_and_port}){web}):([^@]*(?:@[^@/?]*)*)@", re.IGNORECASE
    )


_WHOLE_ADDRESS = _address(r"(?:[/?#]|$)")
_ADDRESS_IN_TEXT = _address(r"[:,;.)'\"\]>]*(?:[/?#\s]|$)")
_KEY = r"(?:\w*password|passwd|pwd)"
_CONCEALED = r"\*\*\*(?:[&:,;.)'\"\s]|$)"  # already
_IN_QUERY = re.compile(rf"([?&])({_KEY}=)(?!{_CONCEALED})([^&\n]*)", re.IGNORECASE)
# Within a parameter, where ODBC has a syntax of its own: raw, or escaped as a whole.
_IN_ODBC = re.compile(
    rf"(;|=|%3B)({_KEY}(?:=|%3D))(?!{_CONCEALED})"
    r"(\{(?:[^}]|}})*\}|%7B(?:(?!%7D).|%7D%7D)*%7D|(?:(?!%3B)[^;&\n])*)",
    re.IGNORECASE,
)
_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "FSSPEC_S3_SECRET",
    "FSSPEC_S3_TOKEN",
)
_LEAST = 4  # characters; to hide what is shorter would hide half of every message


def concealed(text: str) -> str:
    """Return a text without passwords: those of addresses in it, and those of the environment."""
    # These first: a value may hold spaces, so that the rest of the text would be taken for one.
    for secret in _of_the_environment():
        for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(form, _HIDDEN)
    text = _ADDRESS_IN_TEXT.sub(rf"\1:{_HIDDEN}@", text)
    for pattern in (_IN_QUERY, _IN_ODBC):
        text = pattern.sub(rf"\1\2{_HIDDEN}", text)
    return text


def in_one_line(error: BaseException) -> str:
    """Return the first line that an exception says, or its kind where it says nothing."""
    said = concealed(str(error)).strip().splitlines()  # a password may hold a line's end
    return said[0] if said else type(error).__name__


def password_in(address: str) -> str | None:
    """Return the password that an address holds, as it stands there; None if there is none."""
    found = [match[2] for match in _WHOLE_ADDRESS.finditer(address)]
    found += [match[3] for pattern in (_IN_QUERY, _IN_ODBC) for match in pattern.finditer(address)]
    return next(filter(None, found), None)


def without_password(address: str) -> str:
    """Return the address as it may be kept and shown."""
    bare = _IN_QUERY.sub(r"\1", _WHOLE_ADDRESS.sub(r"\1@", address))
    bare = _IN_ODBC.sub(lambda found: "=" if found[1] == "=" else "", bare)
    return re.sub(r"([?&;])[&;]+", r"\1", bare).rstrip("?&;")


def _of_the_environment() -> list[str]:
    secrets = [os.environ.get(name, "") for name in _VARIABLES]
    for address in ("MLFLOW_TRACKING_URI", "ADARELU_SWEEP_STORAGE"):
        if written := password_in(os.environ.get(address, "")):
            secrets += [written, unquote(written), unquote_plus(written)]
    return sorted({s for s in secrets if len(s) >= _LEAST}, key=len, reverse=True)
