"""The ledger: real SQLite files, seen through it and through Optuna's own API."""

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from adarelu_sweep.errors import UserError
from adarelu_sweep.recording import databases
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.trials import Counts, LedgerTrial, TrialResult
from adarelu_sweep.studies.plan import Cell, cells
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from tests.postgres import PostgresServer

KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy.engine.default import DefaultDialect
from adarelu_sweep.recording.ledger import Ledger

left, execute = int(sys.argv[2]), DefaultDialect.do_execute

def killed(self, cursor, statement, *arguments):
    global left
    execute(self, cursor, statement, *arguments)
    if statement.lstrip().upper().startswith(("CREATE", "INSERT")):
        left -= 1
        if not left:
            os._exit(9)

DefaultDialect.do_execute = killed
DefaultDialect.do_execute_no_params = killed
Ledger(Path(sys.argv[1]))
"""


def record(name: str = "mine", seeds: int = 3) -> StudyRecord:
    study = Study.model_validate(
        {
            "name": name,
            "matrix": {
                "dataset": "digits",
                "network": {"name": "vgg16_bn", "width": 0.25},
                "activation": ["relu", "adarelu", {"name": "leaky_relu", "negative_slope": 0.1}],
                "seeds": seeds,
            },
            "training": {"epochs": 2, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
        }
    )
    return StudyRecord(
        uid=f"uid of {name}",
        study=study,
        source='name = "mine"  # as it was written: ä, 語\n',
        created="2026-01-02T03:04:05+00:00",
        version="0.0",
        workers=2,
        threads=3,
    )


GOOD = TrialResult(accuracy=91.25, loss=0.5, epochs=2, diverged=False)
BAD = TrialResult(accuracy=10.0, loss=None, epochs=1, diverged=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.db"


@pytest.fixture(params=["file", "server"])
def where(request: pytest.FixtureRequest, path: Path) -> Path | str:
    """Every place where Optuna's book may lie."""
    if request.param == "file":
        return path
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def ledger(where: Path | str) -> Iterator[Ledger]:
    ledger = Ledger(where)
    yield ledger
    ledger.close()


@pytest.fixture
def file_ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def plan(ledger: StudyLedger) -> list[Cell]:
    return list(cells(ledger.record.study))


def in_optuna(where: Path | str, name: str = "mine") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=address(where)).trials


def address(where: Path | str) -> str:
    return f"sqlite:///{where}" if isinstance(where, Path) else where


# Studies


def test_studies_by_name(ledger: Ledger, where: Path | str) -> None:
    assert ledger.names() == []
    for name in ("mine", "another", "Mine"):
        ledger.refuse_existing(name)
        assert ledger.create(record(name)).record == record(name)
    assert ledger.names() == ["mine", "another", "Mine"]  # the oldest first
    again = Ledger(where)
    assert again.names() == ledger.names()
    assert again.open("another").record == record("another")
    assert again.open("another").trials() == []
    again.close()


def test_a_study_is_not_made_twice(ledger: Ledger) -> None:
    trial_before = ledger.create(record()).begin(plan(ledger.open("mine"))[0], 1)
    for refuse in (ledger.refuse_existing, lambda name: ledger.create(record(name))):
        with pytest.raises(UserError) as caught:
            refuse("mine")
        assert str(caught.value) == (
            "study 'mine' exists: go on with 'adarelu-sweep resume mine', "
            "or launch under another --name"
        )
    assert ledger.open("mine").trials() == [trial_before]


def test_an_unknown_study(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="unknown study 'mine'; see 'adarelu-sweep list'"):
        ledger.open("mine")
    ledger.create(record())
    with pytest.raises(UserError, match=r"unknown study 'mien' \(did you mean 'mine'\?\)"):
        ledger.open("mien")


def test_a_study_without_a_plan_does_not_exist(ledger: Ledger, where: Path | str) -> None:
    # What a launch leaves that is cut off between its two transactions.
    optuna.create_study(study_name="mine", storage=address(where), direction="maximize")
    assert ledger.names() == []
    with pytest.raises(UserError, match="unknown study"):
        ledger.open("mine")
    study = ledger.create(record())
    assert ledger.names() == ["mine"]
    assert ledger.open("mine").record == record()
    study.begin(plan(study)[0], 1)
    assert [trial.number for trial in in_optuna(where)] == [0]


def test_the_plan_is_kept_whole(ledger: Ledger) -> None:
    ledger.create(record(seeds=50))
    assert ledger.open("mine").record == record(seeds=50)
    assert len(plan(ledger.open("mine"))) == 150


def test_a_home_without_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no studies in .*: launch one, or give another --home"):
        Ledger.existing(tmp_path / "home" / "optuna.db")
    assert list(tmp_path.iterdir()) == []
    Ledger(tmp_path / "optuna.db").close()
    Ledger.existing(tmp_path / "optuna.db").close()


# Trials


def test_what_becomes_of_trials(ledger: Ledger, where: Path | str) -> None:
    study = ledger.create(record())
    todo = plan(study)

    good = study.begin(todo[0], threads=4)
    assert good == study.trials()[0]
    assert (good.number, good.cell, good.attempts, good.threads) == (0, todo[0].key, 1, 4)
    assert good.state is TrialState.RUNNING
    study.report(good, 1, 80.0)
    study.report(good, 2, 91.25)
    study.report(good, 2, 91.25)
    good = study.complete(good, GOOD)

    bad = study.complete(study.begin(todo[1], 1), BAD)
    failed = study.fail(study.begin(todo[2], 1), "ValueError: no\nmore")
    waiting = study.begin(todo[3], 1)
    study.report(waiting, 1, 12.5)
    waiting = study.hand_back(waiting)
    assert waiting.attempts == 1
    resumed = study.resume(study.hand_back(study.begin(todo[4], threads=2)))
    assert (resumed.attempts, resumed.threads) == (2, 2)
    running = study.begin(todo[5], 1)

    trials = [good, bad, failed, waiting, resumed, running]
    assert study.trials() == trials
    again = Ledger(where)
    assert again.open("mine").trials() == trials
    again.close()
    assert [trial.result for trial in trials[:3]] == [GOOD, BAD, None]
    assert failed.error == "ValueError: no\nmore"

    seen = in_optuna(where)
    states = ["COMPLETE", "COMPLETE", "FAIL", "WAITING", "RUNNING", "RUNNING"]
    assert [trial.state.name for trial in seen] == states
    assert [trial.number for trial in seen] == list(range(6))
    assert [trial.values for trial in seen] == [[91.25], [10.0], None, None, None, None]
    assert seen[0].intermediate_values == {1: 80.0, 2: 91.25}
    assert seen[3].intermediate_values == {1: 12.5}
    for trial, cell in zip(seen, todo, strict=False):
        assert trial.user_attrs["cell"] == cell.key
        assert trial.user_attrs["dataset"] == "digits"
        assert trial.user_attrs["network"] == "vgg16_bn(width=0.25)"
        assert trial.user_attrs["activation"] == cell.settings.activation.label
        assert trial.user_attrs["seed"] == cell.settings.seed
        assert trial.datetime_start is not None
        assert abs(trial.datetime_start - datetime.now()) < timedelta(minutes=1)  # local time
        assert (trial.datetime_complete is not None) == trial.state.is_finished()
    assert seen[0].user_attrs["threads"] == 4
    assert seen[0].user_attrs["result"] == vars(GOOD)
    assert seen[4].user_attrs["attempts"] == 2
    best = optuna.load_study(study_name="mine", storage=address(where)).best_trial
    assert best.number == 0


def test_a_trial_stays_the_same_through_every_retry(ledger: Ledger, where: Path | str) -> None:
    study = ledger.create(record())
    trial = study.begin(plan(study)[0], 1)
    for attempt in range(2, 6):
        study.report(trial, attempt, float(attempt))
        trial = study.resume(study.hand_back(trial))
        assert (trial.number, trial.attempts) == (0, attempt)
    study.complete(trial, GOOD)
    [seen] = in_optuna(where)
    assert seen.intermediate_values == {2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0}
    assert seen.state is TrialState.COMPLETE


def test_one_trial_per_cell(ledger: Ledger, where: Path | str) -> None:
    study = ledger.create(record())
    for cell in plan(study):
        study.complete(study.begin(cell, 1), GOOD)
    keys = [trial.user_attrs["cell"] for trial in in_optuna(where)]
    assert keys == [cell.key for cell in plan(study)]
    assert len(set(keys)) == 9


def test_what_has_ended_does_not_begin_again(ledger: Ledger) -> None:
    study = ledger.create(record())
    done = study.complete(study.begin(plan(study)[0], 1), GOOD)
    for change in (study.hand_back, study.resume, lambda trial: study.complete(trial, BAD)):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            change(done)
    assert study.trials() == [done]


def test_studies_do_not_mix(ledger: Ledger, where: Path | str) -> None:
    mine, another = ledger.create(record()), ledger.create(record("another"))
    mine.begin(plan(mine)[0], 1)
    trial = another.begin(plan(another)[5], 1)
    another.fail(trial, "no")
    mine.begin(plan(mine)[1], 1)
    assert [trial.number for trial in mine.trials()] == [0, 1]
    assert [trial.number for trial in another.trials()] == [0]
    another.repair()
    mine.repair()
    assert {trial.state for trial in mine.trials()} == {TrialState.WAITING}
    assert in_optuna(where, "another")[0].state is TrialState.FAIL


DYING = """
import os, signal, sys
from pathlib import Path
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.trials import TrialResult
where = sys.argv[1]
study = Ledger(where if "//" in where else Path(where)).open("mine")
todo = list(cells(study.record.study))
study.complete(study.begin(todo[0], 1), TrialResult(91.25, 0.5, 2, False))
study.fail(study.begin(todo[1], 1), "no")
study.hand_back(study.begin(todo[2], 1))
for cell in todo[3:5]:
    study.report(study.begin(cell, 2), 1, 33.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_repair_lets_wait_what_a_killed_supervisor_left(ledger: Ledger, where: Path | str) -> None:
    study = ledger.create(record())
    done = subprocess.run([sys.executable, "-c", DYING, str(where)])
    assert done.returncode == -9
    study = ledger.open("mine")
    before = [trial.state.name for trial in in_optuna(where)]
    assert before == ["COMPLETE", "FAIL", "WAITING", "RUNNING", "RUNNING"]
    study.repair()
    study.repair()
    after = study.trials()
    assert [trial.state.name for trial in after] == before[:2] + ["WAITING"] * 3
    assert {trial.attempts for trial in after} == {1}
    assert after[0].result == GOOD
    resumed = study.resume(after[4])
    assert (resumed.attempts, resumed.threads) == (2, 2)
    assert in_optuna(where)[4].intermediate_values == {1: 33.0}


# The file


def test_journal_mode_and_permissions(file_ledger: Ledger, path: Path) -> None:
    file_ledger.create(record())
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_closed_ledger_is_one_file_and_its_lock(file_ledger: Ledger, path: Path) -> None:
    file_ledger.create(record())
    file_ledger.close()
    assert {entry.name for entry in path.parent.iterdir()} == {"optuna.db", "optuna.db.lock"}


def test_first_openings_at_once(tmp_path: Path) -> None:
    """Optuna's own creation of its tables fails when several processes begin it at once."""
    opening = f"""
import sys
from pathlib import Path
from adarelu_sweep.recording.ledger import Ledger
print("ready", flush=True)
sys.stdin.read()
Ledger(Path({str(tmp_path)!r}) / "optuna.db")
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", opening], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4


READING = """
import sys
from pathlib import Path
from adarelu_sweep.recording.ledger import Ledger
ledger = Ledger.existing(Path(sys.argv[1]))
print("open", flush=True)
for _ in sys.stdin:
    print(len(ledger.open("mine").trials()), flush=True)
ledger.close()
"""


def test_a_reader_in_another_process_does_not_wait_for_the_writer(
    file_ledger: Ledger, path: Path
) -> None:
    study = file_ledger.create(record())
    study.begin(plan(study)[0], 1)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM trials")
    # Neither opening nor reading waits for the transaction, which ends when all is read.
    command = [sys.executable, "-c", READING, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"

        def read() -> int:
            assert reader.stdin is not None
            assert reader.stdout is not None
            print(file=reader.stdin, flush=True)
            return int(reader.stdout.readline())

        assert read() == 1  # as it was before the transaction
        writer.execute("ROLLBACK")
        writer.close()
        for number, cell in enumerate(plan(study)[1:], start=2):
            trial = study.begin(cell, 1)
            assert read() == number
            study.report(trial, 1, 1.0)
        reader.stdin.close()
        assert reader.wait(60) == 0


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_writers_of_two_studies_and_readers_at_once(
    path: Path, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQLite's write-ahead log, and as on a network file system without it."""
    kind = "nfs4" if journal == "delete" else None
    monkeypatch.setattr(databases, "network_filesystem", lambda _path: kind)
    names = ["one", "two"]
    first = Ledger(path)
    for name in names:
        first.create(record(name, seeds=8))
    stop = threading.Event()

    def write(name: str) -> None:
        ledger = Ledger(path)
        study = ledger.open(name)
        for cell in plan(study):
            trial = study.begin(cell, 1)
            study.report(trial, 1, 1.0)
            study.complete(trial, GOOD)
        ledger.close()

    def read() -> list[int]:
        ledger = Ledger(path)
        seen = []
        while not stop.is_set():
            seen.append(sum(len(ledger.open(name).trials()) for name in names))
        ledger.close()
        return seen

    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(read)
        try:
            for writing in [pool.submit(write, name) for name in names]:
                writing.result(120)
        finally:
            stop.set()
        seen = reading.result(120)
    assert seen == sorted(seen)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
    for name in names:
        assert [trial.number for trial in first.open(name).trials()] == list(range(24))
    first.close()


def refused(path: Path) -> str:
    with pytest.raises(UserError, match="not a usable Optuna database") as caught:
        Ledger(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"not a database, but long enough\n" * 99, b"\0" * 5000])
def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kept", [100, 4096, 0.25, 0.5, 0.9])
def test_a_truncated_database(file_ledger: Ledger, path: Path, kept: float) -> None:
    study = file_ledger.create(record())
    for cell in plan(study):
        study.begin(cell, 1)
    file_ledger.close()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    refused(path)


def test_places_where_no_database_can_be(tmp_path: Path) -> None:
    refused(tmp_path)
    refused(tmp_path / "missing" / "optuna.db")


def test_another_version_of_optunas_schema(file_ledger: Ledger, path: Path) -> None:
    file_ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE version_info SET schema_version = 1")
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    connection.close()
    refused(path)


# Counts

STATES = [
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.RUNNING,
    TrialState.WAITING,
]


def ledger_trial(number: int, state: TrialState) -> LedgerTrial:
    return LedgerTrial(number=number, cell=str(number), state=state, attempts=1, threads=1)


@given(states=st.lists(st.sampled_from(STATES), max_size=40), unborn=st.integers(0, 40))
def test_counts_add_up(states: list[TrialState], unborn: int) -> None:
    trials = [ledger_trial(number, state) for number, state in enumerate(states)]
    total = len(trials) + unborn
    counts = Counts.of(total, Counter(states))
    assert counts.total == total
    assert counts.waiting == states.count(TrialState.WAITING) + unborn
    for each in (counts, counts.without_running()):
        parts = [each.complete, each.pruned, each.failed, each.running, each.waiting]
        assert sum(parts) == total
        assert min(parts) >= 0
    assert counts.without_running().running == 0
    assert counts.without_running().complete == counts.complete


@given(steps=st.lists(st.tuples(st.sampled_from("bhrcf"), st.integers(0, 8)), max_size=25))
@settings(max_examples=15, deadline=None, print_blob=True)
def test_counts_of_any_course_of_events(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Do what a supervisor may do, in any order; book and expectation never differ."""
    path = tmp_path_factory.mktemp("home") / "optuna.db"
    ledger = Ledger(path)
    study = ledger.create(record())
    todo = plan(study)
    known: dict[int, LedgerTrial] = {}  # by the cell's place
    actions: dict[str, tuple[TrialState, Any]] = {
        "h": (TrialState.RUNNING, study.hand_back),
        "r": (TrialState.WAITING, study.resume),
        "c": (TrialState.RUNNING, lambda trial: study.complete(trial, GOOD)),
        "f": (TrialState.RUNNING, lambda trial: study.fail(trial, "no")),
    }
    for action, place in steps:
        if action == "b":
            if place not in known:
                known[place] = study.begin(todo[place], 1)
            continue
        wanted, act = actions[action]
        if place in known and known[place].state is wanted:
            known[place] = act(known[place])
    expected = sorted(known.values(), key=lambda trial: trial.number)
    assert study.trials() == expected
    counts = Counts.of(len(todo), Counter(trial.state for trial in study.trials()))
    assert counts == Counts.of(len(todo), Counter(trial.state for trial in expected))
    assert counts.complete == sum(t.state is TrialState.COMPLETE for t in in_optuna(path))
    assert sum([counts.complete, counts.failed, counts.running, counts.waiting]) == 9
    ledger.close()


@pytest.mark.parametrize("statements", [1, 5, 10, 1000])
def test_a_kill_while_the_database_is_made_leaves_none(tmp_path: Path, statements: int) -> None:
    path = tmp_path / "optuna.db"
    command = [sys.executable, "-c", KILLED, str(path), str(statements)]
    killed = subprocess.run(command).returncode == 9
    assert killed == (statements < 1000)
    assert path.exists() != killed
    assert not killed or path.with_name("optuna.db.new").exists()
    ledger = Ledger(path)
    ledger.create(record())
    assert ledger.names() == ["mine"]
    ledger.close()
    assert not path.with_name("optuna.db.new").exists()
