"""What a study and its trials look like in MLflow, and how a run is brought up to date.

Every method may be repeated at will: runs are looked up by tag before they are made, and a metric
with the same step, timestamp and value stands once however often it is sent.
"""

import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.tracking import MlflowClient

from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.artifacts import write_artifacts
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.training.history import MODEL, History

_STUDY_TAG = "adarelu_sweep.study"
_TRIAL_TAG = "adarelu_sweep.trial"
_METRICS_PER_CALL = 1000  # MLflow's own limit
_TAG_LENGTH = 5000


class MlflowTracker:
    """One study's experiment: a parent run for the study, a child run for every trial."""

    def __init__(self, uri: str, record: StudyRecord, study_folder: Path) -> None:
        self._record = record
        self._study_folder = study_folder
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = self._ensure_experiment(record.study.name)
        self._common_tags = _common_tags(record)
        self.parent_run = self._ensure_run(
            f"tags.`{_STUDY_TAG}` = '{record.uid}' AND tags.`adarelu_sweep.kind` = 'study'",
            record.study.name,
            {"adarelu_sweep.kind": "study", "mlflow.note.content": _note(record)},
        ).info.run_id

    def begin_study(self) -> None:
        """Say that the study runs, and keep its file and its resolved form."""
        self._set_study_status("RUNNING")
        with TemporaryDirectory() as folder:
            (Path(folder) / "study.toml").write_text(self._record.source)
            resolved = self._record.study.model_dump_json(indent=2)
            (Path(folder) / "study.json").write_text(resolved)
            self._client.log_artifacts(self.parent_run, folder)

    def end_study(self, status: RunStatus, tables: dict[str, str]) -> None:
        """Keep the result tables (file name to content) and say how the study ended."""
        if status == "KILLED":  # little time is left; the tables come again with the resume
            self._set_study_status(status)
        with TemporaryDirectory() as folder:
            for name, content in tables.items():
                (Path(folder) / name).write_text(content)
            self._client.log_artifacts(self.parent_run, folder, "report")
        if status != "KILLED":
            self._set_study_status(status)

    def deliver(self, snapshot: TrialSnapshot) -> None:
        """Bring a trial's run up to date with its folder and state."""
        delivered = Delivered.read(snapshot.folder) or self._find_or_make(snapshot)
        if snapshot.status == "RUNNING" and delivered.status != "RUNNING":
            self._set_status(delivered.run_id, "RUNNING")
            delivered.status = "RUNNING"
            delivered.write(snapshot.folder)
        self._log_news(snapshot, delivered)
        delivered.write(snapshot.folder)
        if snapshot.status in {"FINISHED", "FAILED"} and not delivered.artifacts:
            self._log_artifacts(snapshot, delivered.run_id)
            delivered.artifacts = True
        if snapshot.status != "RUNNING" and snapshot.status != delivered.status:
            self._set_status(delivered.run_id, snapshot.status)
        delivered.status = snapshot.status
        delivered.write(snapshot.folder)

    def _log_news(self, snapshot: TrialSnapshot, delivered: Delivered) -> None:
        """Send what the run does not have yet, in one call unless there is very much of it."""
        history = History.read(snapshot.folder)
        metrics = [
            Metric(key, value, record.timestamp, record.epoch)
            for record in history.epochs[delivered.epochs :]
            for key, value in record.metrics.items()
        ]
        tags = {k: v for k, v in snapshot.tags.items() if delivered.tags.get(k) != v}
        params = {} if delivered.params else snapshot.settings.flattened()
        if not (metrics or tags or params):
            return
        first, *rest = _chunks(metrics, _METRICS_PER_CALL) or [[]]
        self._client.log_batch(
            delivered.run_id,
            metrics=first,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value[:_TAG_LENGTH]) for key, value in tags.items()],
        )
        for chunk in rest:
            self._client.log_batch(delivered.run_id, metrics=chunk)
        delivered.epochs = len(history.epochs)
        delivered.params = True
        delivered.tags |= tags

    def _log_artifacts(self, snapshot: TrialSnapshot, run_id: str) -> None:
        with TemporaryDirectory() as folder:
            write_artifacts(snapshot, Path(folder))
            self._client.log_artifacts(run_id, folder)
        model = snapshot.folder / MODEL
        if snapshot.status == "FINISHED" and model.exists():
            self._client.log_artifact(run_id, str(model), "model")

    def _find_or_make(self, snapshot: TrialSnapshot) -> Delivered:
        settings = snapshot.settings
        trial = f"{self._record.uid}/{snapshot.key}"
        run = self._ensure_run(
            f"tags.`{_TRIAL_TAG}` = '{trial}'",
            f"{settings.arm}/seed {settings.seed}",
            {
                "adarelu_sweep.kind": "trial",
                _TRIAL_TAG: trial,
                "mlflow.parentRunId": self.parent_run,
                "arm": settings.arm,
                "seed": str(settings.seed),
                "optuna.study": self._record.study.name,
                "optuna.trial_number": snapshot.key,
            },
        )
        # What an earlier delivery sent is not known: all is sent again, which is harmless.
        return Delivered(run_id=run.info.run_id, status=run.info.status)

    def _ensure_experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _ensure_run(self, query: str, name: str, tags: dict[str, str]) -> Run:
        found = self._client.search_runs(
            [self._experiment], query, ViewType.ALL, 20, order_by=["attributes.start_time ASC"]
        )
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if found and not active:
            self._client.restore_run(found[0].info.run_id)
            return found[0]
        for twin in active[1:]:  # made by a request whose answer came too late
            self._client.delete_run(twin.info.run_id)
        if active:
            return active[0]
        start = time.time_ns() // 1_000_000
        return self._client.create_run(
            self._experiment, start, {**self._common_tags, **tags}, run_name=name
        )

    def _set_study_status(self, status: RunStatus) -> None:
        self._set_status(self.parent_run, status)
        Delivered(run_id=self.parent_run, status=status).write(self._study_folder)

    def _set_status(self, run_id: str, status: RunStatus) -> None:
        if status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, status)


def _common_tags(record: StudyRecord) -> dict[str, str]:
    tags = {_STUDY_TAG: record.uid, "mlflow.source.name": "adarelu-sweep"}
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


def _note(record: StudyRecord) -> str:
    lines = [f"Study `{record.study.name}`, launched {record.created}."]
    if subset := record.study.data.subset_note():
        lines.append(f"**{subset}**")
    return "\n\n".join(lines)


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
