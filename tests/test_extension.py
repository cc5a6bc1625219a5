"""Adding to a study that was launched: what is allowed, and what becomes of its trials."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.recording.books import ArmBook
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.reporting.collecting import collect
from adarelu_sweep.studies.extension import extended
from adarelu_sweep.studies.reading import read_study, restudy
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.search import ArmSearch
from tests.test_search import SEARCH, STUDIES, ledger_of, read, values, work_off


def record_of(study: Study) -> StudyRecord:
    return StudyRecord(uid="u", study=study, source="as before", created="", version="")


def extend(ledger: StudyLedger, home: Home, *overrides: str) -> StudyLedger:
    """Do what a resume does before it trains."""
    Agenda(ledger, home).keep_confirmed()
    return Ledger(home.optuna_db).extend(extended(ledger.record, None, overrides))


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_study_is_its_own_extension(file: Path) -> None:
    study = read_study(file)
    assert restudy(study, []) == study
    assert extended(record_of(study), file, []).study == study


ADDED = [
    "matrix.network=[{name='vgg16_bn',width=0.0625},'resnet18']",
    "matrix.activation=['elu','leaky_relu','relu']",
    "matrix.dataset=['mnist','digits']",
    "search.trials=5",
    "search.confirm_seeds=3",
    "search.confirm_seeds=[2,9,1]",
    "report.baseline=leaky_relu",
    "report.figures=true",
    "execution.max_retries=9",
    "execution.keep=none",
]
REFUSED = {
    "training.epochs=3": "training.epochs: 2 -> 3",
    "training.optimizer.lr=0.1": "training.optimizer.lr: 0.05 -> 0.1",
    "training.optimizer=adam": "training.optimizer: sgd(lr=0.05,momentum=0.9) -> adam",
    "training.precision=bf16": "training.precision: 'fp32' -> 'bf16'",
    "data.train_limit=201": "data.train_limit: 200 -> 201",
    "matrix.seeds=[3]": "matrix.seeds: [0] -> [3]",
    "matrix.activation=leaky_relu": "matrix.activation: without relu",
    "matrix.activation.1.negative_slope=0.2": "matrix.activation: without leaky_relu",
    "matrix.network=resnet18": "matrix.network: without vgg16_bn(width=0.0625)",
    "matrix.dataset=mnist": "matrix.dataset: without 'digits'",
    "search.trials=3": "search.trials: 4 -> 3",
    "search.confirm_seeds=1": "search.confirm_seeds: without 2",
    "search.sampler=random": "search.sampler: tpe(n_startup_trials=2) -> random",
    "search.pruner=median": "search.pruner: none -> median",
    "search.seed=1": "search.seed: 0 -> 1",
    "search.validation_fraction=0.5": "search.validation_fraction: 0.25 -> 0.5",
    "search.space={'training.optimizer.lr'={low=1e-3,high=0.3,log=true}}": (
        "search.space.training.batch_size: a table -> not set"
    ),
}


@given(st.lists(st.sampled_from(ADDED), max_size=4))
def test_whatever_is_added_may_be_added_together(
    tmp_path_factory: pytest.TempPathFactory, overrides: list[str]
) -> None:
    study = read(tmp_path_factory.getbasetemp())
    added = extended(record_of(study), None, overrides)
    assert added.source == "as before"
    assert added.study == restudy(study, overrides)


@pytest.mark.parametrize("override", REFUSED)
def test_what_would_not_be_comparable_is_refused(tmp_path: Path, override: str) -> None:
    study = read(tmp_path)
    with pytest.raises(UserError) as caught:
        extended(record_of(study), None, [override, "report.figures=true"])
    said = str(caught.value)
    assert said.startswith("study 'tuned' cannot go on with this")
    assert f"comparable: {REFUSED[override]}" in said
    assert "\n" not in said


def test_a_matrix_takes_more_seeds_but_loses_none(tmp_path: Path) -> None:
    plain = record_of(read_study(STUDIES / "quickstart.toml", ["matrix.seeds=3"]))
    assert extended(plain, None, ["matrix.seeds=[7,2,1,0]"]).study.matrix.seeds == [7, 2, 1, 0]
    with pytest.raises(UserError, match=r"matrix\.seeds: without 2:"):
        extended(plain, None, ["matrix.seeds=2"])
    searched = tmp_path / "searched.toml"
    searched.write_text(SEARCH)
    with pytest.raises(
        UserError, match=r"comparable: .*training\.epochs: 4 -> 2; .*; and \d more:"
    ):
        extended(plain, searched, [f"name={plain.study.name}"])
    with pytest.raises(UserError, match=r"this is study 'tuned', not .* --set name=quickstart"):
        extended(plain, searched, [])


def test_more_trials_and_arms_leave_what_was_trained(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    ledger = ledger_of(read(tmp_path), home)
    before = work_off(Agenda(ledger, home))
    ledger = extend(
        ledger, home, "search.trials=6", "matrix.activation=['elu','relu','gelu','leaky_relu']"
    )
    new = work_off(Agenda(ledger, home))
    after = Agenda(ledger, home)
    assert after.left() == 0
    by_name = {book.arm.activation.label: book for book in ledger.searches()}
    assert {name: book.index for name, book in by_name.items()} == {
        "relu": 0,
        "leaky_relu": 1,
        "elu": 2,
        "gelu": 3,
    }
    assert [len(book.trials()) for book in by_name.values()] == [6] * 4
    assert len({job.folder for job in before + new}) == len(before + new)
    now = {job.key: (values(job), job.folder) for job in after.jobs()}
    for job in before:
        if job.search:
            assert now[job.key] == (values(job), job.folder)


def test_an_older_home_keeps_the_folders_of_its_arms(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    ledger = ledger_of(read(tmp_path), home)
    done = work_off(Agenda(ledger, home))
    storage = ledger._storage
    with storage.engine.begin() as connection:  # as it was before there were such attributes
        connection.exec_driver_sql(
            "DELETE FROM study_user_attributes WHERE key IN "
            "('adarelu_sweep.index', 'adarelu_sweep.confirmed')"
        )
    ledger = Ledger(home.optuna_db).open("tuned")
    assert [book.index for book in ledger.searches()] == [0, 1]
    assert [book.first_confirmed for book in ledger.searches()] == [None, None]
    ledger = extend(ledger, home, "matrix.activation=['gelu','relu','leaky_relu']")
    assert [book.index for book in ledger.searches()] == [2, 0, 1]
    agenda = Agenda(ledger, home)
    assert agenda.left() == 4 + 2
    assert {job.folder for job in agenda.jobs()} == {job.folder for job in done}


def test_a_better_setting_is_confirmed_anew_and_alone_reported(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    ledger = ledger_of(read(tmp_path, "search.sampler=random", "search.trials=1"), home)
    work_off(Agenda(ledger, home))
    first = {trial.cell: trial.number for trial in ledger.trials()}
    ledger = extend(ledger, home, "search.trials=8", "search.confirm_seeds=3")
    new = [job for job in work_off(Agenda(ledger, home)) if job.search is None]
    best = {book.arm.label: _best(ledger, book) for book in ledger.searches()}
    assert all(number > 0 for number in best.values())  # or the sampler's first draw was lucky
    assert {job.cell.key for job in new} == {
        f"{arm}/{seed}/search {number}" for arm, number in best.items() for seed in (1, 2, 3)
    }
    assert {trial.cell: trial.number for trial in ledger.trials()}.items() >= first.items()
    results = collect(ledger, home)
    reported = {trial.number for arm in results.arms for trial in arm.trials}
    assert reported == {job.trial.number for job in new}
    assert results.counts.total == results.counts.complete == 2 * (8 + 3)
    ledger = extend(ledger, home, "search.confirm_seeds=4")
    added = [job.cell.key for job in work_off(Agenda(ledger, home))]
    assert added == [f"{arm}/4/search {number}" for arm, number in best.items()]


def _best(ledger: StudyLedger, book: ArmBook) -> int:
    best = ArmSearch(ledger.record.study, book).best(book.trials())
    assert best is not None
    return best.number
