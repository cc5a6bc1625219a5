"""What MLflow's client is told before it is imported."""

import os

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_UPLOADS = 12  # times as long: two minutes, as MLflow's server may wait for its object store
_ENVIRONMENT = {
    # A failed delivery is repeated by the delivery, which looks first what has arrived; MLflow's
    # own retries would run past two minutes, and make a second run where an answer came late.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _TIMEOUT: "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Neither addresses nor progress bars are to be printed into the display.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def prepare_client() -> None:
    """Set MLflow's environment for this process, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def upload_timeout() -> int:
    """Return the seconds for which an upload of artifacts is waited for."""
    return _UPLOADS * int(os.environ.get(_TIMEOUT) or _ENVIRONMENT[_TIMEOUT])
