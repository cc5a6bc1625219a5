"""Having a study's best model registered, by a process of its own.

The model is built with torch, which the supervisor's process does not import.
"""

import os
import subprocess

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from adarelu_sweep.processes import own_command
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.client import upload_timeout
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.registering import ALIAS, Order
from adarelu_sweep.tracking.study_report import BestTrial

_TIMEOUT = 180.0  # seconds; it takes about 20, most of them for importing torch and mlflow


def register_best(
    client: MlflowClient, uri: str, record: StudyRecord, best: BestTrial
) -> str | None:
    """Register a model under its study's name with the alias "best", unless it is there already.

    Returns why that failed, in one line, or None. The process is told the tracking address, which
    may hold a password, and the credentials by its environment.
    """
    name = record.study.name
    delivered = Delivered.read(best.folder, record.uid)
    if delivered is None:
        return f"the best model is not registered: no run is known for trial {best.key}"
    if _registered_run(client, name) == delivered.run_id:
        return None
    order = Order(
        run_id=delivered.run_id,
        name=name,
        results=str(best.results),
        description=best.description,
    )
    try:
        done = subprocess.run(
            own_command("adarelu_sweep.tracking.registering"),
            input=order.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": uri,
                "MLFLOW_HTTP_REQUEST_TIMEOUT": str(upload_timeout()),
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
    except subprocess.TimeoutExpired:
        return f"the best model is not registered: it took more than {_TIMEOUT:.0f} s"
    if done.returncode == 0:
        return None
    reason = (done.stdout.strip() or done.stderr.strip() or f"exit {done.returncode}").splitlines()
    return f"the best model is not registered: {reason[-1]}"


def _registered_run(client: MlflowClient, name: str) -> str | None:
    """Return the run whose model has the alias, or None if there is none."""
    try:
        return str(client.get_model_version_by_alias(name, ALIAS).run_id)
    except MlflowException:  # there is none; or it cannot be asked for, and the attempt will tell
        return None
