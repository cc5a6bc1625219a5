"""MLflow's own authentication for the server of a home: on once asked for, until switched off."""

import os
import re
import secrets
import shutil
from importlib.util import find_spec
from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.home import Home

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_LEAST = 12  # characters of a password, as MLflow demands


def is_on(home: Home) -> bool:
    """Return whether the home's server asks who somebody is."""
    return _settings(home).exists()


def users_database(home: Home) -> Path:
    """Return the file in which MLflow keeps who may ask."""
    return home.auth_folder / "users.db"


def switch(home: Home, on: bool) -> None:
    """Let the home's server ask, or not, from its next start on.

    The administrator is who the environment names; raises UserError where it names nobody. Switched
    off, its users are forgotten.
    """
    if not on:
        _forget(home)
        return
    if find_spec("flask_wtf") is None:
        raise UserError("--auth needs a package more: pip install 'adarelu-sweep[auth]'")
    if is_on(home):
        return
    require_credentials()
    if not re.fullmatch(r"[\w.@+-]+", os.environ[USER]):
        raise UserError(f"{USER} is no usable name: give letters, digits, '.', '_', '@', '+', '-'")
    password = os.environ[PASSWORD]
    if len(password) < _LEAST or not password.isascii():
        raise UserError(f"{PASSWORD} is none that MLflow takes: give {_LEAST} ASCII characters")
    _forget(home)  # what is left of users where that was cut off
    home.auth_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(home.auth_folder / "secret-key", secrets.token_hex(32).encode())
    settings = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{users_database(home)}",
        "admin_username": os.environ[USER],
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "grant_default_workspace_access": "false",
        # Without it every request costs a check of the password's slow hash.
        "auth_cache_ttl_seconds": "60",
    }
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in settings.items()]
    write_atomically(_settings(home), "\n".join(["[mlflow]", *lines, ""]).encode())


def require_credentials() -> None:
    """Raise UserError unless the environment says who we are."""
    missing = [name for name in (USER, PASSWORD) if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"the server of this home asks for a user and password: set {' and '.join(missing)}"
        )


def server_environment(home: Home) -> dict[str, str]:
    """Return what MLflow's server reads: secrets go to it in no other way."""
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(_settings(home)),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": (home.auth_folder / "secret-key").read_text(),
    }
    if password := os.environ.get(PASSWORD):  # at the first start it becomes the administrator's
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = password
    return environment


def _forget(home: Home) -> None:
    _settings(home).unlink(missing_ok=True)  # first: as long as they are there, the rest is needed
    shutil.rmtree(home.auth_folder, ignore_errors=True)


def _settings(home: Home) -> Path:
    return home.auth_folder / "server.ini"
