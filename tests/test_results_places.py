"""A study's own place for results: taken, looked for, and removed with the study."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.operating.deleting import Deletion
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.reporting.collecting import collect
from adarelu_sweep.storing.marks import MARK
from adarelu_sweep.storing.places import write_whole
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.supervising.results_places import take_place
from tests.object_store import Fault, ObjectStore
from tests.test_ledger import record

GONE = f"{MARK} is missing there: mount the folder that it is in"


def kept_at(address: object) -> StudyRecord:
    plain = record()
    execution = plain.study.execution.model_copy(update={"checkpoints": str(address)})
    study = plain.study.model_copy(update={"execution": execution})
    return plain.model_copy(update={"uid": "0123456789abcdef", "study": study})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def launched(home: Home) -> Callable[[StudyRecord], StudyLedger]:
    """Records a study as a launch does."""

    def launch(plan: StudyRecord) -> StudyLedger:
        take_place(plan, new=True)
        return Ledger(home.optuna_db).create(plan)

    return launch


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    mount = tmp_path / "mount"
    mount.mkdir()
    return mount


def names(home: Home) -> list[str]:
    return Ledger(home.optuna_db).names()


def test_who_takes_a_place_has_it_until_the_next_one_does(mount: Path) -> None:
    plan = kept_at(mount)
    fences = [take_place(plan, new=True), take_place(plan)]
    assert [fence.holds() for fence in fences if fence] == [False, True]
    assert isinstance(plan.place, Path)
    assert [path.name for path in plan.place.iterdir()] == [MARK]
    assert take_place(record()) is None  # in the home


def test_a_place_that_is_not_mounted_is_refused_and_not_made(
    home: Home, launched: Callable[[StudyRecord], StudyLedger], mount: Path, tmp_path: Path
) -> None:
    plan = kept_at(mount)
    ledger = launched(plan)
    away = tmp_path / "away"
    for left in (False, True):  # nothing, or an empty mount point
        mount.rename(away)
        if left:
            mount.mkdir()
        for use in (
            lambda: take_place(plan),
            lambda: collect(ledger, home),
            lambda: Deletion("mine", home, keep_runs=False),
        ):
            with pytest.raises(UserError, match=GONE):
                use()
        assert list(mount.rglob("*")) == []
        assert mount.exists() == left
        if left:
            mount.rmdir()
        away.rename(mount)
    collect(ledger, home)
    with pytest.raises(UserError, match="No such file or directory"):
        take_place(kept_at(tmp_path / "unmounted"), new=True)
    assert not (tmp_path / "unmounted").exists()


def test_a_study_is_deleted_from_its_place_and_the_mark_goes_last(
    home: Home, launched: Callable[[StudyRecord], StudyLedger], mount: Path, tmp_path: Path
) -> None:
    plan = kept_at(mount)
    launched(plan)
    assert isinstance(plan.place, Path)
    (plan.place / "00001").mkdir()
    write_whole(plan.place / "00001" / "model", b"weights")
    deletion = Deletion("mine", home, keep_runs=False)
    mount.rename(tmp_path / "away")
    with pytest.raises(UserError, match=GONE):
        deletion.carry_out()
    assert names(home) == ["mine"]
    (tmp_path / "away").rename(mount)
    deletion.carry_out()
    assert names(home) == []
    assert list(mount.iterdir()) == []


def test_a_study_can_be_deleted_though_its_place_is_gone_for_good(
    home: Home, launched: Callable[[StudyRecord], StudyLedger], mount: Path
) -> None:
    plan = kept_at(mount)
    launched(plan)
    assert isinstance(plan.place, Path)
    (plan.place / MARK).unlink()
    plan.place.rmdir()
    with pytest.raises(UserError, match="--keep-checkpoints"):
        Deletion("mine", home, keep_runs=False)
    Deletion("mine", home, keep_runs=False, keep_checkpoints=True).carry_out()
    assert names(home) == []
    assert list(mount.iterdir()) == []


def test_checkpoints_in_the_home_cannot_be_kept(home: Home) -> None:
    Ledger(home.optuna_db).create(record())
    with pytest.raises(UserError, match="leave --keep-checkpoints out"):
        Deletion("mine", home, keep_runs=False, keep_checkpoints=True)


def test_a_store_that_is_not_the_one_is_told_before_anything_is_deleted(
    home: Home, launched: Callable[[StudyRecord], StudyLedger], reached: ObjectStore
) -> None:
    plan = kept_at(reached.address)
    launched(plan)
    assert plan.place is not None
    write_whole(plan.place / "00001" / "model", b"weights")
    for fault, said in {
        "missing": rf"{MARK} is missing there: correct the address of the store",
        "refuse": "the store refuses it",
    }.items():
        faults = Fault(fault, methods=("GET", "HEAD"))  # type: ignore[arg-type]
        with reached.failing(faults), pytest.raises(UserError, match=said) as raised:
            Deletion("mine", home, keep_runs=False)
        assert "\n" not in str(raised.value)
    assert len(reached.contents()) == 2
    deletion = Deletion("mine", home, keep_runs=False)
    faults = Fault("error", methods=("DELETE",))
    with reached.failing(faults), pytest.raises(UserError, match="not removed; delete again"):
        deletion.carry_out()
    assert len(reached.contents()) == 2
    deletion = Deletion("mine", home, keep_runs=False)
    reached.abolish()
    with pytest.raises(UserError, match="there is no such bucket"):
        deletion.carry_out()
    Deletion("mine", home, keep_runs=False, keep_checkpoints=True).carry_out()
    assert names(home) == []
