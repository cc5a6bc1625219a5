"""Reaching a study's tracking server."""

from typing import TYPE_CHECKING

from adarelu_sweep.home import Home
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.address import require_answer, take_credentials, with_password
from adarelu_sweep.tracking.authentication import require_credentials
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.server import ensure_server

if TYPE_CHECKING:
    from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker


def given_address(record: StudyRecord) -> str | None:
    """Return the tracking server that a study was launched with, or None for the home's own.

    Its credentials are in the environment then.
    """
    if record.tracking_uri is None:
        return None
    return take_credentials(with_password(record.tracking_uri))


def connect(home: Home, record: StudyRecord, tracking_uri: str | None) -> "MlflowTracker":
    """Reach the tracking server, starting the home's own if none was given; takes seconds.

    Raises UserError where the home's own asks for a user and password that are not there, or would
    be started and cannot keep artifacts.
    """
    uri, is_up = tracking_uri, None
    if uri is None:
        server = ensure_server(home)
        uri, is_up = server.url, server.is_alive
        if server.asks:
            require_credentials()
            require_answer(uri)
    prepare_client()
    # Imported here, in the delivery's thread: mlflow takes seconds, and training does not wait.
    from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(uri, record, home.study_folder(record.study.name), is_up)
