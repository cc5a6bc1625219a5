"""What a study and its trials look like in MLflow, and how a run is brought up to date.

Every method may be repeated at will: runs are looked up by tag before they are made, and a metric
with the same step, timestamp and value stands once however often it is sent.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import on_disk
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.address import charts_address
from adarelu_sweep.tracking.arm_runs import update_arm_runs
from adarelu_sweep.tracking.artifacts import write_artifacts
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.experiment import COLOUR_TAG, KIND_TAG, STUDY_TAG, Experiment
from adarelu_sweep.tracking.probes import layer_means
from adarelu_sweep.tracking.registration import register_best
from adarelu_sweep.tracking.settling import TRIAL_TAG, settle
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.tracking.study_report import StudyReport
from adarelu_sweep.training.history import MODEL, History
from adarelu_sweep.training.settings import TrialSettings

_NOTE_TAG = "mlflow.note.content"  # what MLflow shows as a run's description
_GREY = "#999999"  # the colours are for the arms
_NOTE_LENGTH = 8000  # MLflow's own limit of a tag
# What MLflow says of a run that is not there, and of one that was deleted.
_GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_CUT = "\n\n(Cut here; the whole is among the artifacts, under report/.)"


class MlflowTracker:
    """One study's experiment: a run for the study, below it one for every trial; one for each arm.

    The arms' runs are beside the study's, where MLflow's default list and charts show them.

    Args:
        uri: The tracking server's address.
        record: The study.
        study_folder: Where its state of delivery is kept.
        is_up: Whether the server that had this address is still up, where that can be known. As
            long as it is, nobody else has had its port, and what was sent has arrived there.
    """

    def __init__(
        self,
        uri: str,
        record: StudyRecord,
        study_folder: Path,
        is_up: Callable[[], bool] | None = None,
    ) -> None:
        self._uri = uri
        self._is_up = is_up
        self._record = record
        self._study_folder = study_folder
        self._experiment = Experiment(uri, record)
        self._client = self._experiment.client
        delivered = Delivered.read(study_folder, record.uid)
        run = self._experiment.ensure_run(
            f"tags.`{STUDY_TAG}` = '{record.uid}' AND tags.`{KIND_TAG}` = 'study'",
            record.study.name,
            {KIND_TAG: "study", _NOTE_TAG: _note(record), COLOUR_TAG: _GREY},
            known=delivered.run_id if delivered else None,
        )
        self._require_the_server()
        self.parent_run: str = run.info.run_id
        self._start: int = run.info.start_time

    @property
    def address(self) -> str:
        """Where the study's runs are compared in MLflow's UI."""
        return charts_address(self._uri, self._experiment.id)

    def begin_study(self) -> None:
        """Say that the study runs, and keep its file and its resolved form."""
        self._set_study_status("RUNNING")
        with TemporaryDirectory() as folder:
            (Path(folder) / "study.toml").write_text(self._record.source)
            resolved = self._record.study.model_dump_json(indent=2)
            (Path(folder) / "study.json").write_text(resolved)
            self._experiment.upload(self.parent_run, Path(folder))

    def settle(self) -> None:
        """Undo what came late; only once nothing is being delivered any more."""
        delivered = Delivered.below(self._study_folder, self._record.uid)
        settle(self._experiment, delivered, self.parent_run)

    def end_study(self, status: RunStatus) -> None:
        """Say how the study ended."""
        self._set_study_status(status)

    def log_report(self, report: StudyReport) -> None:
        """Keep the report on the study's run, and show its arms."""
        self._client.set_tag(self.parent_run, _NOTE_TAG, _shortened(report.note))
        self._experiment.upload(self.parent_run, report.folder, "report")
        if report.arms:
            update_arm_runs(self._experiment, report.arms, self._start)

    def register_best(self, report: StudyReport) -> str | None:
        """Register the best trial's model, unless it is; return, in one line, why it is not."""
        if report.best is None:
            return report.remark
        trouble = register_best(self._client, self._uri, self._record, report.best)
        name = self._record.study.name
        return f"{trouble}; 'adarelu-sweep report {name}' tries again" if trouble else None

    def deliver(self, snapshot: TrialSnapshot) -> None:
        """Bring a trial's run up to date with its folder and state."""
        known = Delivered.read(snapshot.folder, self._record.uid)
        try:
            self._bring_up_to_date(snapshot, known or self._find_or_make(snapshot))
        except MlflowException as error:
            if known is None or error.error_code not in _GONE:
                raise
            # Somebody deleted the run, or the server's records: it is restored, or made again.
            self._bring_up_to_date(snapshot, self._find_or_make(snapshot))

    def _bring_up_to_date(self, snapshot: TrialSnapshot, delivered: Delivered) -> None:
        if snapshot.status == "RUNNING" and delivered.status != "RUNNING":
            self._experiment.set_status(delivered.run_id, "RUNNING")
            delivered.status = "RUNNING"
            self._keep(delivered, snapshot.folder)
        self._log_news(snapshot, delivered)
        self._keep(delivered, snapshot.folder)
        if snapshot.status in {"FINISHED", "FAILED"}:
            # Those that arrived with another status are those of a failure, before a retry that
            # another home may have made.
            if not delivered.artifacts or snapshot.status != delivered.status:
                self._log_artifacts(snapshot, delivered.run_id)
                self._record.require_place()  # all the time, or what was not found may be there
            delivered.artifacts = True
        if snapshot.status != "RUNNING" and snapshot.status != delivered.status:
            self._experiment.set_status(delivered.run_id, snapshot.status)
        delivered.status = snapshot.status
        self._keep(delivered, snapshot.folder)

    def _log_news(self, snapshot: TrialSnapshot, delivered: Delivered) -> None:
        """Send what the run does not have yet, in one call unless there is very much of it."""
        self._record.require_place()
        history = History.read(snapshot.results)
        lacks_epochs = max(len(history.epochs), delivered.epochs) < snapshot.epochs
        if lacks_epochs and self._record.place is not None:  # in the home, nothing will come back
            found = f"{len(history.epochs)} of {snapshot.epochs} epochs"
            raise StorageError(f"{snapshot.results}: its history has {found}")
        metrics = [
            Metric(key, value, record.timestamp, record.epoch)
            for record in history.epochs[delivered.epochs :]
            for key, value in {**record.metrics, **layer_means(record)}.items()
        ]
        tags = {k: v for k, v in snapshot.tags.items() if delivered.tags.get(k) != v}
        params = {} if delivered.params else snapshot.settings.flattened()
        if not (metrics or tags or params):
            return
        self._experiment.log(delivered.run_id, metrics, params, tags)
        # An epoch that is trained again, after a checkpoint was damaged, is not sent again.
        delivered.epochs = max(delivered.epochs, len(history.epochs))
        delivered.params = True
        delivered.tags |= tags

    def _log_artifacts(self, snapshot: TrialSnapshot, run_id: str) -> None:
        with TemporaryDirectory() as folder:
            write_artifacts(snapshot, Path(folder), self._record.study.report.figures)
            self._experiment.upload(run_id, Path(folder))
        model = snapshot.results / MODEL
        if snapshot.status == "FINISHED" and model.exists():
            with on_disk(model) as file:
                self._experiment.upload(run_id, file, "model")

    def _find_or_make(self, snapshot: TrialSnapshot) -> Delivered:
        settings = snapshot.settings
        trial = f"{self._record.uid}/{snapshot.key}"
        # Fails where another home's server has meanwhile taken the port of this one's.
        self._client.get_run(self.parent_run)
        run = self._experiment.ensure_run(
            f"tags.`{TRIAL_TAG}` = '{trial}'",
            _trial_name(snapshot.number, settings),
            {
                KIND_TAG: "trial",
                TRIAL_TAG: trial,
                "mlflow.parentRunId": self.parent_run,
                "arm": settings.arm,
                "seed": str(settings.seed),
                "optuna.study": snapshot.optuna_study,
                "optuna.trial_number": str(snapshot.number),
                **_phase(settings),
            },
        )
        # What an earlier delivery sent is not known: all is sent again, which is harmless.
        return Delivered(study=self._record.uid, run_id=run.info.run_id, status=run.info.status)

    def _set_study_status(self, status: RunStatus) -> None:
        self._experiment.set_status(self.parent_run, status)
        delivered = Delivered(
            study=self._record.uid,
            run_id=self.parent_run,
            experiment=self._experiment.id,
            status=status,
        )
        self._keep(delivered, self._study_folder)

    def _keep(self, delivered: Delivered, folder: Path) -> None:
        """Keep what has arrived, once it is certain where."""
        self._require_the_server()
        delivered.write(folder)

    def _require_the_server(self) -> None:
        """Raise where what was sent may have gone to another home's server on the same port."""
        if self._is_up is not None and not self._is_up():
            raise MlflowException(f"the server at {self._uri} has ended meanwhile")


def _note(record: StudyRecord) -> str:
    lines = [f"Study `{record.study.name}`, launched {record.created}."]
    if subset := record.study.data.subset_note():
        lines.append(f"**{subset}**")
    return "\n\n".join(lines)


def _shortened(note: str) -> str:
    """Cut a note after a line, where it is longer than MLflow keeps."""
    if len(note) <= _NOTE_LENGTH:
        return note
    lines = note[: _NOTE_LENGTH - len(_CUT)].rpartition("\n")[0]
    return lines + _CUT


def _trial_name(number: int, settings: TrialSettings) -> str:
    """Return what people read, such that sorting by name sorts by number within an arm."""
    arm = f"{settings.activation.label}, {settings.network.label}, {settings.dataset}"
    if settings.measured_on == "val":
        return f"{arm}: search {number:03d}"
    return f"{arm}: seed {settings.seed:02d}"


def _phase(settings: TrialSettings) -> dict[str, str]:
    """Tell a search's trials from those that confirm what it found."""
    if settings.tuned_arm is None:
        return {}
    return {"phase": "search" if settings.measured_on == "val" else "confirm"}
