"""Where the home's own MLflow server keeps artifacts, if not in the home.

A mark lies there that says whose it is: two homes would count their experiments alike, and delete
each other's artifacts.
"""

import os
import socket
from importlib.util import find_spec
from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import discard, write_atomically
from adarelu_sweep.home import Home
from adarelu_sweep.secrets import in_one_line
from adarelu_sweep.storing.objects import ObjectPath, StorageError
from adarelu_sweep.storing.places import Place, place_at, write_whole

_MARK = "adarelu-sweep.home"
# What MLflow reads beside the AWS_ variables of boto3.
_STORE_SETTINGS = ("MLFLOW_S3_", "MLFLOW_BOTO_")


def is_chosen(home: Home, address: str | None) -> bool:
    """Return whether artifacts are kept at an address; None stands for wherever they are."""
    return address is None or _parsed(address) == home.artifacts


def choose(home: Home, address: str) -> None:
    """Have artifacts at an address from now on; raise UserError where that cannot be."""
    place = _parsed(address)
    if problem := _problem_of_client(place):
        raise UserError(problem)
    if place == home.artifacts:
        return
    try:
        if _holds_artifacts(home.artifacts):
            raise UserError(
                f"the artifacts of {home.root} are in {home.artifacts} already, and would be out "
                "of sight: leave --artifacts out, or give another --home"
            )
        if place == home.own_artifacts:
            discard(home.artifacts_file)
            return
        _take(place, home)
    except OSError as error:
        said = _said(place, error)
        raise UserError(f"--artifacts: {said}; mend that, or give another place") from None
    write_atomically(home.artifacts_file, str(place).encode())


def require_ours(home: Home) -> None:
    """Raise UserError unless the place can be reached and is this home's; takes a while, if not."""
    if problem := problem_with(home):
        raise UserError(problem)


def problem_with(home: Home) -> str | None:
    """Return why artifacts cannot be kept where they are to be, in one line, or None."""
    place = home.artifacts
    if place == home.own_artifacts:
        return None
    if problem := _problem_of_client(place):
        return problem
    try:
        mark = _mark(place)
    except OSError as error:
        return f"{_said(place, error)}: the home's artifacts are kept there"
    if mark is None:
        return (
            f"{place} is not what the home's artifacts were kept in: {_MARK} is missing there; "
            "mount the folder, or correct the store's address (AWS_ENDPOINT_URL)"
        )
    return None


def server_environment(place: Place) -> dict[str, str]:
    """Return what MLflow's server is told of the place, beside what AWS's variables say."""
    if not isinstance(place, ObjectPath):
        return {}
    given = {k: v for k, v in os.environ.items() if k.startswith(_STORE_SETTINGS)}
    # A store that hangs costs it 60 s for each attempt, and the delivery repeats by itself.
    patience = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "2"}
    return given | {k: v for k, v in patience.items() if k not in os.environ}


def _problem_of_client(place: Place) -> str | None:
    """Return why MLflow's server could not speak to a place, or would to another, or None."""
    if not isinstance(place, ObjectPath):
        return None
    if find_spec("boto3") is None:
        return f"{place} needs boto3: pip install 'adarelu-sweep[s3]'"
    own = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    if own and own != (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        return (
            "MLFLOW_S3_ENDPOINT_URL is read by MLflow alone, and differs from AWS_ENDPOINT_URL: "
            f"say in the latter alone where the store of {place} is"
        )
    return None


def _parsed(address: str) -> Place:
    try:
        return place_at(address)
    except ValueError as error:
        raise UserError(f"--artifacts: {error}") from None


def _take(place: Place, home: Home) -> None:
    """Mark a place as the home's."""
    ours = f"{socket.gethostname()}:{home.root}".encode()
    mark = _mark(place)
    if mark != ours and (mark is not None or _holds_artifacts(place)):
        whose = f"is that of the home {mark.decode()}" if mark else "holds something already"
        raise UserError(f"--artifacts: {place} {whose}: give an empty place")
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / _MARK, ours)
    if _mark(place) != ours:
        raise StorageError(f"{place}: what was written there is not what is read")


def _holds_artifacts(place: Place) -> bool:
    """Return whether there is more than a mark, as MLflow's server sees it."""
    if isinstance(place, Path):
        return any(path.is_file() and path.name != _MARK for path in place.rglob("*"))
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        found = get_artifact_repository(str(place)).list_artifacts()
    # ValueError: boto3 says so of an endpoint that is no address.
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StorageError(f"{place}: {in_one_line(error)}") from None
    return any(entry.path != _MARK for entry in found)


def _mark(place: Place) -> bytes | None:
    try:
        return (place / _MARK).read_bytes()
    except FileNotFoundError:
        return None


def _said(place: Place, error: OSError) -> str:
    """Return what an error says of a place."""
    return str(error) if isinstance(error, StorageError) else f"{place}: {error.strerror}"
