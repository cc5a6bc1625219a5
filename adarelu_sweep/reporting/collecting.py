"""Reading a study's results: its trials from the ledger, their histories from where they lie."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from optuna.trial import TrialState

from adarelu_sweep.components import unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import StudyLedger
from adarelu_sweep.recording.trials import LedgerTrial
from adarelu_sweep.reporting.results import (
    Arm,
    ArmSearch,
    Evaluated,
    Results,
    SearchTrial,
    SeedResult,
    State,
)
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Arm as StudyArm
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.results_places import results_of
from adarelu_sweep.supervising.search import ArmSearch as Searching
from adarelu_sweep.supervising.state import state_of
from adarelu_sweep.training.history import CONFUSION_MATRIX, History
from adarelu_sweep.training.settings import TrialSettings

_READERS = 8


def collect(
    ledger: StudyLedger,
    home: Home,
    baseline: str | None = None,
    threshold: float | None = None,
    state: State | None = None,
    in_haste: bool = False,
) -> Results:
    """Collect the results of the finished trials, arm by arm in the order of the study file.

    ``baseline`` and ``threshold`` go before those of the study file. The baseline is ReLU, or the
    first activation where that is not among them, unless given; UserError if none has the label.
    ``state`` is what the study's own supervisor knows of it; anybody else leaves it to be found
    out. ``in_haste`` leaves the histories unread: a report
    has no convergence, curves and probes then, and takes a fraction of the time.
    """
    study = ledger.record.study
    if not in_haste:
        _require_place(ledger.record)
    here = state_of(ledger, home)
    trials = {trial.cell: trial for trial in ledger.trials()}
    searching = {book.arm.label: Searching(study, book) for book in ledger.searches()}
    arms = []
    for arm in study.arms():
        found = []
        keys = _keys(arm, study, searching.get(arm.label))
        for seed in sorted(study.seeds()):
            trial = trials.get(keys.get(seed, ""))
            if trial is not None and trial.result is not None:
                folder = home.trial_folder(study.name, trial.number)
                place = results_of(folder, ledger.record, home)
                found.append(SeedResult(seed, trial.result, trial.number, folder, place))
        if not in_haste:
            found = _with_histories(found)
        settings = _trained(arm, study, searching.get(arm.label))
        evaluated = None if in_haste else _evaluated(found)
        arms.append(Arm(arm, settings, len(study.seeds()), found, evaluated))
    if not in_haste:
        _require_place(ledger.record)  # all the time, or what was not found may be there
    return Results(
        study=study,
        state=state or here.state,
        counts=here.counts,
        arms=arms,
        baseline=choose_baseline(
            [arm.activation for arm in arms], baseline or study.report.baseline
        ),
        threshold=study.report.threshold if threshold is None else threshold,
        in_haste=in_haste,
        searches=[_search(search) for search in searching.values()],
    )


def _keys(arm: StudyArm, study: Study, search: Searching | None) -> dict[int, str]:
    """Return the cell of every seed; of a search, those that confirm the best setting so far."""
    if search is None:
        return {seed: f"{arm.label}/{seed}" for seed in study.seeds()}
    best = search.best(search.book.trials())
    return {seed: search.confirmed(best, seed).key for seed in study.seeds()} if best else {}


def _trained(arm: StudyArm, study: Study, search: Searching | None) -> TrialSettings:
    """Return the settings of the arm's first seed: those of its search's best, if it has one."""
    seed = study.seeds()[0]
    best = search.best(search.book.trials()) if search else None
    if search is None or best is None:
        return arm.settings(study, seed)
    return search.confirmed(best, seed).settings


def _search(search: Searching) -> ArmSearch:
    arm, trials = search.book.arm, search.book.trials()
    shown = {trial.number: _search_trial(trial) for trial in trials}
    best = search.best(trials)
    return ArmSearch(
        dataset=arm.dataset,
        network=arm.network.label,
        activation=arm.activation.label,
        planned=search.budget,
        trials=list(shown.values()),
        best=shown[best.number] if best else None,
    )


def _search_trial(trial: LedgerTrial) -> SearchTrial:
    result = trial.result
    return SearchTrial(
        number=trial.number,
        params=trial.params,
        accuracy=result.accuracy if result else None,
        state="failed" if trial.state is TrialState.FAIL else trial.state.name.lower(),
        epochs=result.epochs if result else 0,
    )


def choose_baseline(activations: list[str], given: str | None) -> str:
    """Return the label given, else ReLU's, else the first; UserError for an unknown one."""
    if given is None:
        return "relu" if "relu" in activations else activations[0]
    if given not in activations:
        known = list(dict.fromkeys(activations))
        raise UserError(f"--baseline: {unknown('activation of this study', given, known)}")
    return given


def _evaluated(trials: list[SeedResult]) -> Evaluated | None:
    """Return what the first trial with a XX: a row per class."""
    for trial in trials:
        try:
            rows = (trial.place / CONFUSION_MATRIX).read_text(encoding="utf-8").splitlines()
            return Evaluated(len(rows), sum(int(cell) for row in rows for cell in row.split(",")))
        except (OSError, ValueError):
            continue
    return None


def _with_histories(trials: list[SeedResult]) -> list[SeedResult]:
    """Add the histories, several read at once: a store takes its time for each."""
    with ThreadPoolExecutor(_READERS) as readers:
        histories = readers.map(_history, trials)
        return [
            replace(trial, history=history)
            for trial, history in zip(trials, histories, strict=True)
        ]


def _history(trial: SeedResult) -> History:
    """Read a finished trial's history; empty unless it is there, readable and whole.

    Raises UserError where a store that has it is not reached: without it nothing would be true.
    """
    try:
        history = History.read(trial.place)
    except StorageError as error:
        raise _needed(error) from None
    except (OSError, ValueError, KeyError):
        return History()
    return history if len(history.epochs) == trial.result.epochs else History()


def _require_place(record: StudyRecord) -> None:
    try:
        record.require_place()
    except StorageError as error:
        raise _needed(error) from None


def _needed(error: StorageError) -> UserError:
    return UserError(f"{error}: the histories that lie there are needed")
