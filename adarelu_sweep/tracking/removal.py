"""What a tracking server holds of one study, and its removal.

On the home's own server it goes for good, through MLflow's database itself, whether or not the
server is up. On any other it is deleted as MLflow deletes: its owner's ``mlflow gc`` removes it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from mlflow.entities import Experiment, LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from adarelu_sweep.home import Home
from adarelu_sweep.storing.places import Place, remove_all
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking import artifact_place
from adarelu_sweep.tracking.experiment import STUDY_TAG

_PER_CALL = 1000


class StudyRecords:
    """The runs, models and experiment of a study; those of others in its experiment are not.

    Args:
        uri: The tracking address; that of ``database_of(home)`` for the home's own server.
        record: The study.
        experiment_id: The id of its experiment, where it is known.
    """

    def __init__(self, uri: str, record: StudyRecord, experiment_id: str | None) -> None:
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._name = record.study.name
        self._experiments = self._find_experiments(experiment_id)
        found = [run for e in self._experiments for run in self._all_runs(e)]
        self.runs = [run for run in found if run.data.tags.get(STUDY_TAG) == record.uid]
        """Deleted ones included."""
        own = {run.info.run_id for run in self.runs}
        # MLflow keeps a model in its default experiment, whichever the run's is.
        outputs = [run.outputs.model_outputs for run in self.runs if run.outputs]
        ids = {output.model_id for several in outputs for output in several}
        self._models = [model for id_ in sorted(ids) if (model := self._model(id_))]
        versions = self._all_versions()
        self._versions = [version for version in versions if version.run_id in own]
        self._whole_model = bool(versions) and len(self._versions) == len(versions)
        shared = {run.info.experiment_id for run in found if run.info.run_id not in own}
        models = [model for e in self._experiments for model in self._models_in(e)]
        shared |= {model.experiment_id for model in models if model.source_run_id not in own}
        self.shared = sorted(shared)
        """The ids of experiments that stay, because there is something else in them."""
        self._own = [e for e in self._experiments if e.experiment_id not in shared]

    def active(self) -> list[Run]:
        """Return the runs that are not deleted already."""
        return [run for run in self.runs if run.info.lifecycle_stage == "active"]

    def delete(self) -> None:
        """Delete all of it as MLflow deletes: hidden, until its ``gc`` removes it."""
        self._unregister()
        for model in self._models:
            self._client.delete_logged_model(model.model_id)
        for run in self.active():
            self._client.delete_run(run.info.run_id)
        for experiment in self._own:
            if experiment.lifecycle_stage == "active":
                self._client.delete_experiment(experiment.experiment_id)

    def remove(self, home: Home) -> None:
        """Remove all of it, artifacts included, from the database of the home's own server.

        Raises UserError, and removes nothing, where the place of the artifacts is not there.
        """
        artifact_place.require_ours(home)
        self._unregister()
        # What MLflow's own gc calls. That would take what others have deleted with it.
        store: Any = SqlAlchemyStore(self._uri, "mlflow-artifacts:/")  # type: ignore[no-untyped-call]
        for model in self._models:
            store._hard_delete_logged_model(model.model_id)
        for place in self.places(home):
            remove_all(place)
        for run in self.runs:
            store._hard_delete_run(run.info.run_id)
        for experiment in self._own:
            if experiment.lifecycle_stage == "active":
                store.delete_experiment(experiment.experiment_id)
            store._hard_delete_experiment(experiment.experiment_id)

    def places(self, home: Home) -> list[Place]:
        """Return where the artifacts lie that go from where the home keeps them."""
        root, whole = home.artifacts, {experiment.experiment_id for experiment in self._own}
        places = [root / experiment for experiment in sorted(whole)]
        for run in self.runs:
            if run.info.experiment_id not in whole:
                places.append(root / run.info.experiment_id / run.info.run_id)
        for model in self._models:
            if model.experiment_id not in whole:
                places.append(root / str(model.experiment_id) / "models" / model.model_id)
        return places

    def _unregister(self) -> None:
        if self._whole_model:
            self._client.delete_registered_model(self._name)
            return
        for version in self._versions:
            self._client.delete_model_version(self._name, version.version)

    def _find_experiments(self, experiment_id: str | None) -> list[Experiment]:
        """Return the experiment of the study's name, and the one that had it, if it was renamed."""
        found = {}
        if named := self._client.get_experiment_by_name(self._name):
            found[named.experiment_id] = named
        if experiment_id and experiment_id not in found:
            try:
                found[experiment_id] = self._client.get_experiment(experiment_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return list(found.values())

    def _all_runs(self, experiment: Experiment) -> list[Run]:
        ids = [experiment.experiment_id]
        return list(
            _pages(
                lambda token: self._client.search_runs(
                    ids, "", ViewType.ALL, _PER_CALL, page_token=token
                )
            )
        )

    def _model(self, model_id: str) -> LoggedModel | None:
        """Return a model that a run has logged, None if it is deleted."""
        try:
            return self._client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _models_in(self, experiment: Experiment) -> list[LoggedModel]:
        ids = [experiment.experiment_id]
        return list(_pages(lambda token: self._client.search_logged_models(ids, page_token=token)))

    def _all_versions(self) -> list[ModelVersion]:
        named = f"name = '{self._name}'"
        return list(
            _pages(lambda token: self._client.search_model_versions(named, page_token=token))
        )


def _pages(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the items of all pages."""
    token: str | None = None
    while True:
        page = fetch(token)
        yield from page
        token = page.token
        if not token:
            return
