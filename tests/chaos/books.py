"""What has to hold of a finished study, however it came to its end.

``differences`` says in words what does not: within the study, between Optuna, MLflow, checkpoints
and report, and against a study with the same settings that nothing disturbed.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import load

from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.storing.places import Place
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.supervising.results_places import results_of
from adarelu_sweep.tracking.probes import layer_means
from adarelu_sweep.tracking.server import ensure_server
from adarelu_sweep.training.history import (
    CHECKPOINT,
    CONFUSION_MATRIX,
    DAMAGED,
    MODEL,
    PREVIOUS,
    EpochRecord,
    History,
)
from tests.trials import digest, measured

Difference = Iterator[str]
_RESULTS = (CHECKPOINT, PREVIOUS, DAMAGED, MODEL, CONFUSION_MATRIX)
_PARTS = {TrialState.COMPLETE: ("complete", "diverged"), TrialState.PRUNED: ("pruned",)}


@dataclass(frozen=True)
class Kept:
    """One trial, and where it is kept."""

    key: str
    """Tells it from the others of any study with these settings."""
    book: str
    """The Optuna study that has it."""
    folder: Path
    """Its own in the home."""
    results: Place
    """Where its worker has left its results."""
    optuna: FrozenTrial

    @cached_property
    def files(self) -> dict[str, Place]:
        """All that is kept of it, by name."""
        found: dict[str, Place] = {path.name: path for path in self.folder.iterdir()}
        if self.results != self.folder:
            places = (self.results / name for name in _RESULTS)
            found |= {place.name: place for place in places if place.exists()}
        return found


class Books:
    """All that a home holds of one study. Read once; the study is not to run meanwhile."""

    def __init__(self, home: Path, name: str, storage: str | None = None) -> None:
        self.home = Home(home, storage)
        self.name = name
        ledger = Ledger.existing(self.home.database)
        self._ledger = ledger.open(name)
        self.study = self._ledger.record.study
        searches = self._ledger.searches()
        ledger.close()
        self.optuna: dict[str, list[FrozenTrial]] = {
            book: optuna.load_study(
                study_name=book, storage=storage or f"sqlite:///{self.home.optuna_db}"
            ).get_trials()
            for book in (name, *(search.name for search in searches))
        }
        self._indices = {search.name: search.index for search in searches}

    # Trials

    @cached_property
    def trials(self) -> list[Kept]:
        """Every trial. Its key is its cell; in a search, its number in its arm."""
        found = []
        for book, trials in self.optuna.items():
            for trial in trials:
                index = self._indices.get(book)
                if index is None:
                    key = str(trial.user_attrs.get("cell"))
                    folder = self.home.trial_folder(self.name, trial.number)
                else:
                    key = f"search {index}, number {trial.number}"
                    folder = self.home.search_trial_folder(self.name, index, trial.number)
                results = results_of(folder, self._ledger.record, self.home)
                found.append(Kept(key, book, folder, results, trial))
        return found

    @cached_property
    def histories(self) -> dict[str, History]:
        """The history of every trial, from its checkpoint."""
        return {trial.key: History.read(trial.results) for trial in self.trials}

    @property
    def epochs(self) -> int:
        """How many epochs were trained and kept."""
        return sum(len(history.epochs) for history in self.histories.values())

    # MLflow

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, to the home's server."""
        return MlflowClient(tracking_uri=ensure_server(self.home).url)

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """The runs that the tracker shows, by kind."""
        experiment = self.client.get_experiment_by_name(self.name)
        kinds: dict[str, list[Run]] = {"study": [], "trial": [], "arm": []}
        if experiment is not None:
            for run in self.client.search_runs([experiment.experiment_id], max_results=5000):
                kinds[run.data.tags["adarelu_sweep.kind"]].append(run)
        return kinds

    def runs_of(self, trial: Kept) -> list[Run]:
        """Return the runs of a trial."""
        tags = {
            "optuna.study": trial.book,
            "optuna.trial_number": str(trial.optuna.number),
        }
        return [run for run in self.runs["trial"] if tags.items() <= run.data.tags.items()]

    def rows(self, run: Run) -> Counter[tuple[str, int, int, str]]:
        """Return every metric that stands in a run: key, step, timestamp, value as text."""
        return Counter(
            (key, metric.step, metric.timestamp, float(metric.value).hex())
            for key in run.data.metrics
            for metric in self.client.get_metric_history(run.info.run_id, key)
        )

    def artifacts(self, run: Run) -> dict[str, Path]:
        """Return the artifacts of a run, as the home's server keeps them."""
        root = self.home.artifacts / run.info.experiment_id / run.info.run_id / "artifacts"
        found = (path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): path for path in found}

    @property
    def report(self) -> Any:
        """The report's numbers."""
        path = self.home.report_folder(self.name) / "report.json"
        return json.loads(path.read_text()) if path.exists() else None


def differences(books: Books, undisturbed: Books | None = None) -> list[str]:
    """Return what is wrong with a finished study, an entry each; nothing if all is well.

    Args:
        books: The study's.
        undisturbed: Those of one with the same settings that nothing disturbed, if every number has
            to be the same.
    """
    found = [*_plan(books), *_agreement(books), *_whole(books)]
    if undisturbed is not None:
        found += _repetition(books, undisturbed)
    return found


def _plan(books: Books) -> Difference:
    """Every cell once, every search as many trials as it is to have."""
    study = books.study
    planned = Counter[str]()
    if study.search is None:
        planned.update(cell.key for cell in cells(study))
    trained = Counter(str(t.user_attrs.get("cell")) for t in books.optuna[books.name])
    for key, times in trained.items():
        if times > 1:
            yield f"{key}: {times} trials of one cell"
    if study.search is None and set(trained) != set(planned):
        yield f"cells without a trial or beyond the plan: {set(trained) ^ set(planned)}"
    if study.search is not None:
        confirmed = len(books.optuna) - 1
        if len(trained) != confirmed * len(study.confirm_seeds()):
            yield f"{len(trained)} confirmations"
        for book, trials in books.optuna.items():
            if book != books.name and len(trials) != study.search.trials:
                yield f"{book}: {len(trials)} trials, not {study.search.trials}"


def _agreement(books: Books) -> Difference:
    """Optuna, checkpoint, and MLflow tell the same of every trial."""
    for trial in books.trials:
        history = books.histories[trial.key]
        for said in (*_in_optuna(books, trial.optuna, history), *_in_mlflow(books, trial, history)):
            yield f"{trial.key} ({trial.folder.name}): {said}"


def _in_optuna(books: Books, trial: FrozenTrial, history: History) -> Difference:
    if trial.state not in _PARTS:
        yield f"Optuna: {trial.state.name}"
        return
    if history.outcome not in _PARTS[trial.state]:
        yield f"Optuna: {trial.state.name}, checkpoint: {history.outcome}"
    if [record.epoch for record in history.epochs] != list(range(1, len(history.epochs) + 1)):
        yield f"checkpoint: epochs {[record.epoch for record in history.epochs]}"
    if history.outcome == "complete" and len(history.epochs) != books.study.training.epochs:
        yield f"checkpoint: complete after {len(history.epochs)} epochs"
    accuracies = {record.epoch: _accuracy(record) for record in history.epochs}
    if trial.intermediate_values != accuracies:
        yield f"Optuna: epochs {trial.intermediate_values}, checkpoint: {accuracies}"
    if trial.value != accuracies.get(len(history.epochs)):
        yield f"Optuna: value {trial.value}, checkpoint: {accuracies}"
    if trial.user_attrs["result"]["epochs"] != len(history.epochs):
        yield f"Optuna: result {trial.user_attrs['result']}"


def _accuracy(record: EpochRecord) -> float:
    on = "val" if "val/accuracy" in record.metrics else "test"
    return record.metrics[f"{on}/accuracy"]


def _in_mlflow(books: Books, trial: Kept, history: History) -> Difference:
    runs = books.runs_of(trial)
    if len(runs) != 1:
        yield f"MLflow: {len(runs)} runs"
        return
    (run,) = runs
    if run.info.status != "FINISHED" or run.info.end_time is None:
        yield f"MLflow: {run.info.status}, ended {run.info.end_time}"
    if run.data.tags.get("outcome") != history.outcome:
        yield f"MLflow: outcome {run.data.tags.get('outcome')}, checkpoint: {history.outcome}"
    stands, told = books.rows(run), _rows(history)
    for row in sorted((stands - told).keys() | (told - stands).keys()):
        yield f"MLflow: {stands[row]} times {row}, checkpoint: {told[row]} times"
    uploaded = books.artifacts(run)
    for artifact in (f"model/{MODEL}", CONFUSION_MATRIX):
        place = trial.files.get(Path(artifact).name)
        kept = place.read_bytes() if place else None
        if kept and (artifact not in uploaded or uploaded[artifact].read_bytes() != kept):
            yield f"MLflow: its artifact {artifact} is not the file among the trial's results"


def _rows(history: History) -> Counter[tuple[str, int, int, str]]:
    return Counter(
        (key, record.epoch, record.timestamp, float(value).hex())
        for record in history.epochs
        for key, value in {**record.metrics, **layer_means(record)}.items()
    )


def _whole(books: Books) -> Difference:
    """The study's own run, its arms' runs, and its report."""
    studies = books.runs["study"]
    if [run.info.status for run in studies] != ["FINISHED"]:
        yield f"the study's runs in MLflow: {[run.info.status for run in studies]}"
    trials = sum(map(len, books.optuna.values()))
    if len(books.runs["trial"]) != trials:
        yield f"MLflow: {len(books.runs['trial'])} runs for {trials} trials"
    arms = Counter(run.data.tags["arm"] for run in books.runs["arm"])
    wanted = Counter({arm.label: 1 for arm in books.study.arms()})
    if books.study.search is None and arms != wanted:
        yield f"MLflow: runs of arms {dict(arms)}"
    for run in books.runs["arm"]:
        for (key, step, *_), times in books.rows(run).items():
            if times > 1:
                yield f"MLflow: {times} times {key} at {step} of {run.data.tags['arm']}"
        if run.info.status != "FINISHED":
            yield f"MLflow: {run.data.tags['arm']} is {run.info.status}"
    for run in studies:
        logged = books.artifacts(run).get("report/report.json")
        if logged is None or json.loads(logged.read_text())["arms"] != books.report["arms"]:
            yield "MLflow: the report is not the one in the home"
    if sorted(books.home.report_folder(books.name).parent.glob(f".{books.name}.*/report.json")):
        yield "a report is left that was written aside"


def _repetition(books: Books, undisturbed: Books) -> Difference:
    """Every number is that of an undisturbed study, to the last bit; but for times."""
    others = {trial.key: trial for trial in undisturbed.trials}
    for trial in books.trials:
        if trial.key not in others:
            yield f"{trial.key}: the undisturbed study has no such trial"
            continue
        mine, theirs = _numbers(books, trial), _numbers(undisturbed, others[trial.key])
        for what, value in mine.items():
            if value != theirs[what]:
                yield f"{trial.key}: {what} {value}, undisturbed: {theirs[what]}"
    if _reported(books) != _reported(undisturbed):
        yield "the report's numbers are not those of the undisturbed study"
    if (one := _uploads(books)) != (two := _uploads(undisturbed)):
        yield f"artifacts by run {one - two}, undisturbed {two - one}"


def _numbers(books: Books, trial: Kept) -> dict[str, Any]:
    """Return what has to repeat. As text where there may be NaN, which equals nothing."""
    history, frozen = books.histories[trial.key], trial.optuna
    return {
        "epochs": measured(history),
        "probes": [repr(record.probes) for record in history.epochs],
        "outcome": history.outcome,
        "state in Optuna": frozen.state,
        "values in Optuna": frozen.values,
        "epochs in Optuna": frozen.intermediate_values,
        "parameters": frozen.params,
        "result": frozen.user_attrs.get("result"),
        "tensors": {
            name: digest(load(place.read_bytes()))
            for name, place in trial.files.items()
            if name.endswith(".safetensors")
        },
        "files": sorted(trial.files),
    }


def _reported(books: Books) -> Any:
    """Return the report's figures without Optuna's trial numbers: packs begin in another order."""
    arms = [dict(arm) for arm in books.report["arms"]]
    for arm in arms:
        arm["trials"] = [{k: v for k, v in t.items() if k != "number"} for t in arm["trials"]]
    return arms


def _uploads(books: Books) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sorted(books.artifacts(run))) for run in books.runs["trial"])
