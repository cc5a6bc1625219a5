"""Uploads to a run's artifacts, which may take longer than any other request.

A server that keeps them in an object store answers an upload when it has it there.
"""

from pathlib import Path
from posixpath import join
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.utils.request_utils import augmented_raise_for_status
from mlflow.utils.rest_utils import http_request

from adarelu_sweep.tracking.client import upload_timeout


def upload(artifact_uri: str, tracking_uri: str, path: Path, under: str | None) -> None:
    """Upload a file, or all that is in a folder, to a run's artifacts."""
    repository: Any = (
        _PatientRepository(artifact_uri, tracking_uri)
        if artifact_uri.startswith("mlflow-artifacts:")
        else get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
    )
    if path.is_dir():
        repository.log_artifacts(str(path), under)
    else:
        repository.log_artifact(str(path), under)


class _PatientRepository(MlflowArtifactsRepository):
    """Artifacts of a server; MLflow's own would wait for an upload as for anything else."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        path = join("/", artifact_path or "", Path(local_file).name)
        with Path(local_file).open("rb") as file:
            answer = http_request(  # type: ignore[no-untyped-call]
                self._host_creds, path, "PUT", data=file, timeout=upload_timeout()
            )
        augmented_raise_for_status(answer)  # type: ignore[no-untyped-call]
