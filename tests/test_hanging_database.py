"""A PostgreSQL server that hangs: its processes stand still, its kernel goes on acknowledging."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from adarelu_sweep.recording import databases, patience, silence
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.patience import OutOfPatienceError
from tests.postgres import PostgresServer
from tests.sweeps import Command
from tests.test_database_server import in_optuna
from tests.test_ledger import GOOD, plan, record
from tests.waiting import wait_until

SHORT = 1.0  # seconds in place of a minute and a half
# Every moment and every change once; the other pairs are left to make test-long.
HERE = (("at once", "begin"), ("before_cursor_execute", "report"), ("commit", "complete"))


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def study(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyLedger]:
    """The book of a study that this process has the right to write."""
    monkeypatch.setattr(silence, "PATIENCE", SHORT)
    monkeypatch.setattr(databases, "_CONNECT_TIMEOUT", 2)
    monkeypatch.setattr(patience, "_PAUSE", 0.1)
    ledger = Ledger(database)
    study = ledger.create(record())
    with ledger.owned("mine"):
        yield study
    ledger.close()


@contextmanager
def hanging_from(
    study: StudyLedger, moment: str, hang: AbstractContextManager[None], seconds: float = 4.0
) -> Iterator[None]:
    """Have something hang for so long, at once or at a moment of the book's next statement."""
    held, resuming = ExitStack(), threading.Timer(seconds, lambda: held.close())

    def begin(*_arguments: Any) -> None:
        held.enter_context(hang)
        resuming.start()

    if moment == "at once":
        begin()
    else:
        event.listen(study._storage.engine, moment, begin, once=True)
    try:
        yield
        resuming.join()
    finally:
        held.close()


@pytest.mark.parametrize(
    ("moment", "change"),
    [
        pair if pair in HERE else pytest.param(*pair, marks=pytest.mark.long)
        for pair in product(
            ("at once", "before_cursor_execute", "commit"), ("begin", "report", "complete")
        )
    ],
)
def test_what_is_recorded_waits_for_a_server_that_hangs(
    study: StudyLedger, postgres: PostgresServer, moment: str, change: str
) -> None:
    """Nothing lost, nothing twice, though the server carries out later what it was asked."""
    said: list[str] = []
    study.patience.say = said.append
    trial = study.begin(plan(study)[0], 1)
    changes: dict[str, Any] = {
        "begin": lambda: study.begin(plan(study)[1], 1),
        "report": lambda: study.report(trial, 1, 50.0),
        "complete": lambda: study.complete(trial, GOOD),
    }
    with hanging_from(study, moment, postgres.hanging()):
        changes[change]()
    (line,) = said
    assert line.startswith("the database server does not answer (")
    assert ("silent for 1 s" in line) == (moment != "at once")  # else it lets nobody in
    trials = study.trials()
    assert len(trials) == (2 if change == "begin" else 1)
    assert trials[0].state is (TrialState.COMPLETE if change == "complete" else TrialState.RUNNING)
    first = study._storage.get_all_trials(study._study_id)[0]
    assert first.intermediate_values == ({1: 50.0} if change == "report" else {})


def test_a_request_to_stop_is_heeded_while_the_server_hangs(
    study: StudyLedger, postgres: PostgresServer
) -> None:
    study.patience.say = lambda _line: None
    trial = study.begin(plan(study)[0], 1)
    with postgres.hanging():
        asking = threading.Timer(0.2, setattr, (study.patience, "exhausted", True))
        asking.start()
        began = time.monotonic()
        with pytest.raises(OutOfPatienceError):
            study.complete(trial, GOOD)
        assert time.monotonic() - began < SHORT + 2 + 3  # and what a busy machine takes
        asking.join()
    study.patience.exhausted = False
    study.complete(trial, GOOD)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_a_process_of_the_server_that_hangs_alone_keeps_the_right_to_write(
    study: StudyLedger, database: str
) -> None:
    """It may still carry out its last statement: until it is gone nothing is written beside it."""
    said: list[str] = []
    study.patience.say = said.append
    trial = study.begin(plan(study)[0], 1)
    with study._storage.engine.connect() as connection:
        process = psutil.Process(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())

    @contextmanager
    def suspended() -> Iterator[None]:
        process.suspend()
        yield
        process.resume()

    began = time.monotonic()
    with hanging_from(study, "commit", suspended(), 8.0):  # longer than it is given to end
        study.begin(plan(study)[1], 1)
        assert time.monotonic() - began > 8
    assert len(said) == 1
    assert len(study.trials()) == 2
    assert not process.is_running()
    study.complete(trial, GOOD)


def test_a_statement_that_takes_long_is_waited_for_as_long_as_it_says_something(
    study: StudyLedger,
) -> None:
    """Rows of 8 KB, one every 50 ms: more than a second of them, and no second without one."""
    rows = "SELECT repeat('x', 8192), pg_sleep(0.05) FROM generate_series(1, 40)"  # 2 s
    with study._storage.engine.connect() as connection:
        assert len(connection.exec_driver_sql(rows).all()) == 40
        with pytest.raises(Exception, match="it has been silent for 1 s"):
            connection.exec_driver_sql("SELECT pg_sleep(3)")


@pytest.mark.longest
@pytest.mark.timeout(600)
def test_a_study_is_stopped_and_goes_on(
    tmp_path: Path, database: str, study_file: Path, postgres: PostgresServer
) -> None:
    command = Command(tmp_path / "home", ADARELU_SWEEP_STORAGE=database)
    command.silence = 3.0
    try:
        running = command.start("launch", study_file, "--set", "training.epochs=40")
        wait_until(lambda: any(t.intermediate_values for t in in_optuna(database)))
        log = command.home / "logs" / "small" / "supervisor.log"
        with postgres.hanging():
            wait_until(lambda: "the database server does not answer" in log.read_text())
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 143
        command.succeed("resume", "small")
    finally:
        command.close()
    trials = in_optuna(database)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert len({trial.user_attrs["cell"] for trial in trials}) == 4
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, 41))
