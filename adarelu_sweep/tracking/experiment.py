"""A study's experiment in MLflow and the runs in it, looked up before they are made."""

import subprocess
import time
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.tracking import MlflowClient

from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.snapshot import RunStatus
from adarelu_sweep.tracking.uploading import upload

STUDY_TAG = "adarelu_sweep.study"
KIND_TAG = "adarelu_sweep.kind"
COLOUR_TAG = "mlflow.runColor"  # a run's colour in MLflow's lists and charts
_METRICS_PER_CALL = 1000  # MLflow's own limit
_RUNS_PER_CALL = 1000
_TAG_LENGTH = 5000


class Experiment:
    """The experiment of one study; made, or restored, if it is not there."""

    def __init__(self, uri: str, record: StudyRecord) -> None:
        self.client = MlflowClient(tracking_uri=uri)
        self._uri = uri
        self.id = self._ensure(record.study.name)
        self._uid = record.uid
        self._common_tags = _common_tags(record)

    def runs(self, kind: str) -> list[Run]:
        """Return the study's runs of a kind, oldest first, but for deleted ones."""
        query = f"tags.`{STUDY_TAG}` = '{self._uid}' AND tags.`{KIND_TAG}` = '{kind}'"
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.id],
                query,
                ViewType.ACTIVE_ONLY,
                _RUNS_PER_CALL,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def ensure_run(
        self, query: str, name: str, tags: dict[str, str], known: str | None = None
    ) -> Run:
        """Return the run that the query finds; restore it if it was deleted, make it if absent.

        Of several, which requests made whose answers came too late, the one stays whose id is
        ``known``, else the oldest; the others are deleted.
        """
        found = self.client.search_runs(
            [self.id], query, ViewType.ALL, 20, order_by=["attributes.start_time ASC"]
        )
        found.sort(key=lambda run: run.info.run_id != known)
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if found and not active:
            self.client.restore_run(found[0].info.run_id)
            return found[0]
        for twin in active[1:]:
            self.client.delete_run(twin.info.run_id)
        return active[0] if active else self.make_run(name, tags)

    def make_run(self, name: str, tags: dict[str, str], start: int | None = None) -> Run:
        """Make a run that starts now, or at ``start`` (milliseconds since 1970)."""
        start = time.time_ns() // 1_000_000 if start is None else start
        return self.client.create_run(self.id, start, {**self._common_tags, **tags}, run_name=name)

    def log(
        self, run_id: str, metrics: list[Metric], params: dict[str, Any], tags: dict[str, str]
    ) -> None:
        """Send all of it in one call, unless there is very much of it."""
        first, *rest = _chunks(metrics, _METRICS_PER_CALL) or [[]]
        self.client.log_batch(
            run_id,
            metrics=first,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value[:_TAG_LENGTH]) for key, value in tags.items()],
        )
        for chunk in rest:
            self.client.log_batch(run_id, metrics=chunk)

    def upload(self, run_id: str, path: Path, under: str | None = None) -> None:
        """Upload a file, or all that is in a folder, to a run's artifacts.

        Not by MLflow's client: that keeps the address of a run's artifacts for the life of the
        process, though the server may come up again on another port, and a stranger on its own.
        """
        run = self.client.get_run(run_id)
        upload(run.info.artifact_uri, self._uri, path, under)

    def set_status(self, run_id: str, status: RunStatus) -> None:
        """Say where a run stands; every status but RUNNING ends it now."""
        if status == "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, status)

    def _ensure(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return str(self.client.create_experiment(name))
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)


def _common_tags(record: StudyRecord) -> dict[str, str]:
    tags = {STUDY_TAG: record.uid, "mlflow.source.name": "adarelu-sweep"}
    if subset := record.study.data.subset_note():
        tags["subset"] = subset
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # not launched from a checkout
    return tags


def _chunks(items: list[Metric], size: int) -> list[list[Metric]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
