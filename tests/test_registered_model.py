"""The study's best model in MLflow's registry: loaded in a fresh process, it predicts the same."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow.models import get_model_info
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file, save_file

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.home import Home
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker
from adarelu_sweep.tracking.server import Server, ensure_server, stop_server
from adarelu_sweep.tracking.snapshot import TrialSnapshot
from adarelu_sweep.tracking.study_report import BestTrial, StudyReport
from adarelu_sweep.training.history import MODEL
from adarelu_sweep.training.inference import load_classifier
from adarelu_sweep.training.loop import Trial
from tests.sweeps import environment

# What somebody else does with the model: this package cannot be imported there.
USER = """
import json, sys
sys.modules["adarelu_sweep"] = None
import mlflow.pytorch, numpy, torch
torch.set_num_threads(1)
uri, images, labels, batch_size = sys.argv[1:]
model = mlflow.pytorch.load_model(uri)
images, labels = torch.from_numpy(numpy.load(images)), numpy.load(labels)

def predict(size):
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(images, size)])

logits = predict(int(batch_size))
correct = int((logits.argmax(1).numpy() == labels).sum())
sizes = {size: list(predict(size).shape) for size in (1, 7, 1000)}
print(json.dumps({"correct": correct, "logits": logits.tolist(), "sizes": sizes}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    prepare_client()
    home = Home(tmp_path_factory.mktemp("registry"))
    yield ensure_server(home)
    stop_server(home)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ResidentDataset:
    return ResidentDataset.load("digits", tmp_path_factory.mktemp("data"), "cpu", train_limit=200)


class Tracked:
    """A study of two trials, trained here and delivered to the server."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        dataset: ResidentDataset,
        activation: str,
        **training: str,
    ) -> None:
        study = Study.model_validate(
            {
                "name": folder.name,
                "matrix": {
                    "dataset": "digits",
                    "network": {"name": "vgg16_bn", "width": 0.0625},
                    "activation": activation,
                    "seeds": 2,
                },
                "data": {"train_limit": 200},
                "training": {"epochs": 2, "optimizer": {"lr": 0.05, "momentum": 0.9}, **training},
            }
        )
        record = StudyRecord(uid=folder.name, study=study, source="", created="", version="0")
        self.name = study.name
        self.uid = record.uid
        self.folder = folder
        self.client = MlflowClient(server.url)
        self.tracker = MlflowTracker(server.url, record, folder)
        self.trials = []
        for number, cell in enumerate(cells(study)):
            place = folder / str(number)
            place.mkdir()
            trial = Trial(cell.settings, dataset, place)
            list(trial.train(lambda: False))
            self.tracker.deliver(
                TrialSnapshot(str(number), "s", number, cell.settings, place, place, "FINISHED")
            )
            self.trials.append(trial)

    def end(self, best: int) -> str | None:
        """End the study with this trial as its best; return what is told of it."""
        (self.folder / "report").mkdir(exist_ok=True)
        place = self.folder / str(best)
        chosen = BestTrial(str(best), place, place, f"trial {best}, chosen by a test")
        report = StudyReport(self.folder / "report", "", best=chosen)
        troubles: list[str] = []
        delivery = Delivery(lambda: self.tracker, troubles.append)
        assert delivery.finish("FINISHED", report, patience=60)
        return troubles[0] if troubles else None

    def run_id(self, number: int) -> str:
        delivered = Delivered.read(self.folder / str(number), self.uid)
        assert delivered is not None
        return delivered.run_id


@pytest.mark.long
@pytest.mark.parametrize(("activation", "precision"), [("relu", "bf16"), ("adarelu", "fp32")])
def test_a_fresh_process_loads_the_best_model_and_predicts_the_same(
    server: Server, dataset: ResidentDataset, tmp_path: Path, activation: str, precision: str
) -> None:
    folder = tmp_path / f"best-{activation}-{precision}"
    folder.mkdir()
    study = Tracked(server, folder, dataset, activation, precision=precision)
    assert study.end(best=1) is None
    run = study.client.get_run(study.run_id(1))
    (logged,) = run.outputs.model_outputs
    of_study = study.client.get_experiment_by_name(study.name)
    assert of_study is not None
    kept_in = study.client.get_logged_model(logged.model_id).experiment_id
    assert kept_in == of_study.experiment_id
    trial = study.trials[1]
    images = dataset.images["test"].float()
    np.save(tmp_path / "images.npy", images.numpy())
    np.save(tmp_path / "labels.npy", dataset.labels["test"].numpy())
    uri, batch_size = f"models:/{study.name}@best", trial.settings.training.evaluation_batch_size
    done = subprocess.run(
        [sys.executable, "-c", USER, uri, "images.npy", "labels.npy", str(batch_size)],
        cwd=tmp_path,
        env=environment(MLFLOW_TRACKING_URI=server.url),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    measured = trial.history.epochs[-1].metrics["test/accuracy"]
    assert 100 * said["correct"] / len(images) == measured
    # Not the accuracy alone: every logit, as the training's own evaluation has it.
    loaded = load_classifier(folder / "1")
    logits = [loaded(batch) for batch in images.split(batch_size)]
    assert said["logits"] == [row for batch in logits for row in batch.tolist()]
    assert said["sizes"] == {size: [len(images), 10] for size in ("1", "7", "1000")}


@pytest.mark.long
def test_registering_follows_the_best_trial_and_repeats_nothing(
    server: Server, dataset: ResidentDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "follows"
    folder.mkdir()
    study = Tracked(server, folder, dataset, "relu")
    statuses = []
    for best in (0, 0, 1, 0):
        assert study.end(best) is None
        version = study.client.get_model_version_by_alias(study.name, "best")
        statuses.append((version.version, version.run_id == study.run_id(best)))
        assert version.description == f"trial {best}, chosen by a test"
    assert statuses == [("1", True), ("1", True), ("2", True), ("1", True)]
    for number in (0, 1):
        run = study.client.get_run(study.run_id(number))
        assert run.info.status == "FINISHED"
        assert run.outputs is not None
        assert len(run.outputs.model_outputs) == 1
        history = study.client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [metric.step for metric in history] == [1, 2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    info = get_model_info(f"models:/{study.name}@best")
    assert info.signature is not None
    assert info.signature.inputs.inputs[0].shape == (-1, 1, 32, 32)


@pytest.mark.long
def test_a_model_that_cannot_be_registered_is_told_and_the_study_ends_all_the_same(
    server: Server, dataset: ResidentDataset, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    study = Tracked(server, folder, dataset, "relu")
    weights = load_file(folder / "0" / MODEL)
    save_file(weights, folder / "0" / MODEL, {"trial": "kept by an earlier version"})
    trouble = study.end(best=0)
    assert trouble is not None
    assert trouble.startswith("the best model is not registered: ")
    assert "an earlier version" in trouble
    assert "\n" not in trouble
    assert study.client.get_run(study.tracker.parent_run).info.status == "FINISHED"
    assert Delivered.is_settled(folder, study.uid, "FINISHED")
