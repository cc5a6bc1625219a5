"""What MLflow's client is told before it is imported."""

import os

_ENVIRONMENT = {
    # A failed delivery is repeated by the delivery, which looks first what has arrived; MLflow's
    # own retries would run past two minutes, and make a second run where an answer came late.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Neither addresses nor progress bars are to be printed into the display.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def prepare_client() -> None:
    """Set MLflow's environment for this process, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
