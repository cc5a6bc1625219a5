"""Optuna's book on a PostgreSQL server: who may write it, and what happens when the server is away.

What is the same for a file is in ``test_ledger.py``, which runs over both.
"""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy import Engine
from sqlalchemy.pool import NullPool

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.migrating.studies import migrate_studies
from adarelu_sweep.operating.deleting import Deletion
from adarelu_sweep.operating.sweep import Machine, resume
from adarelu_sweep.recording import patience
from adarelu_sweep.recording.belonging import LAUNCHED, keep_launch, require_own, whereabouts
from adarelu_sweep.recording.databases import TakenError
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.patience import OutOfPatienceError
from adarelu_sweep.storing.marks import put_mark
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.running import Screen
from adarelu_sweep.supervising.search import ArmSearch
from tests.postgres import ESCAPED, PASSWORD, PostgresServer
from tests.sweeps import Command
from tests.test_ledger import GOOD, plan, record
from tests.test_ledger import in_optuna as in_optuna_of
from tests.test_search import read
from tests.waiting import wait_until

HOLDING = """
import sys
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.migrating.studies import migrate_studies
ledger = Ledger(sys.argv[1])
with ledger.owned("mine"):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def ledger(database: str) -> Iterator[Ledger]:
    ledger = Ledger(database)
    ledger.create(record())
    yield ledger
    ledger.close()


@contextmanager
def held_elsewhere(database: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process has the right to write the book."""
    command = [sys.executable, "-c", HOLDING, database]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


# Who may write


def test_one_supervisor_at_a_time(ledger: Ledger, database: str) -> None:
    with held_elsewhere(database) as process:
        with pytest.raises(TakenError, match=f"is being run by process {process.pid} on "):
            ledger.owned("mine").__enter__()
        owner = ledger.open("mine").owner()
        assert owner is not None
        assert owner[0] == process.pid
        with ledger.owned("another"):  # each study has its own
            pass
        process.kill()
        wait_until(lambda: ledger.open("mine").owner() is None)
    with ledger.owned("mine"):
        owner = ledger.open("mine").owner()
        assert owner is not None
        assert owner[0] == os.getpid()
    assert ledger.open("mine").owner() is None


def test_a_restart_takes_the_right_to_nobody_else(
    ledger: Ledger, database: str, postgres: PostgresServer
) -> None:
    study = ledger.open("mine")
    with ledger.owned("mine"):
        trial = study.begin(plan(study)[0], 1)
        postgres.stop("immediate")
        postgres.start()
        study.report(trial, 1, 50.0)  # on a connection that is made for it, with the right to it
        done = subprocess.run(
            [sys.executable, "-c", HOLDING, database], capture_output=True, text=True, input=""
        )
        assert f"is being run by process {os.getpid()} on " in done.stderr
        study.complete(trial, GOOD)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_who_was_replaced_while_the_server_was_away_writes_no_more(
    ledger: Ledger, database: str, postgres: PostgresServer
) -> None:
    study = ledger.open("mine")
    with ledger.owned("mine"):
        trial = study.begin(plan(study)[0], 1)
        postgres.stop("immediate")
        postgres.start()
        with held_elsewhere(database) as process:
            for write in (lambda: study.complete(trial, GOOD), lambda: study.report(trial, 1, 1.0)):
                with pytest.raises(TakenError, match=f"process {process.pid} on"):
                    write()
    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]


def test_who_was_replaced_for_a_while_writes_no_more(
    ledger: Ledger, database: str, postgres: PostgresServer
) -> None:
    """The other has come and gone: nobody has the right, but what is in memory here is old."""
    study = ledger.open("mine")
    with ledger.owned("mine"):
        trial = study.begin(plan(study)[0], 1)
        postgres.stop("immediate")
        postgres.start()
        with held_elsewhere(database):
            pass
        for write in (lambda: study.complete(trial, GOOD), lambda: study.begin(plan(study)[1], 1)):
            with pytest.raises(TakenError, match="was run by another process while the database"):
                write()
    with ledger.owned("mine"):  # as anybody new may
        study.complete(trial, GOOD)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_a_connection_that_the_server_thinks_alive_gives_the_right_up(
    ledger: Ledger, database: str
) -> None:
    """A host that was cut off for a while, and comes back before the server has noticed."""
    study = ledger.open("mine")
    with ledger.owned("mine"):
        left = study._storage.engine.raw_connection()
        left.detach()  # the pool makes another one; this one stays open
        study.begin(plan(study)[0], 1)
        with pytest.raises(psycopg.OperationalError), left.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_another_host_with_the_same_name_and_process_id_is_another(
    ledger: Ledger, database: str
) -> None:
    same = f"import os; os.getpid = lambda: {os.getpid()}\n{HOLDING}"
    with subprocess.Popen(
        [sys.executable, "-c", same, database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as twin:
        assert twin.stdout is not None
        assert twin.stdout.readline() == "mine\n"
        with pytest.raises(TakenError):
            ledger.owned("mine").__enter__()
        assert twin.stdin is not None
        twin.stdin.close()


def test_a_study_of_another_home_is_neither_gone_on_with_nor_deleted(
    database: str, tmp_path: Path
) -> None:
    """Whether it has a trial or not: the next who asks may be its own home."""
    home = Home(tmp_path / "home", database)
    home.create()
    there = Ledger(database)
    study = there.create(record().model_copy(update={"home": "elsewhere:/sweeps"}))
    with pytest.raises(UserError, match="belongs to the home elsewhere:/sweeps"):
        require_own(study, home)
    with pytest.raises(UserError, match="belongs to the home elsewhere:/sweeps"):
        Deletion("mine", home, keep_runs=True)
    home.trial_folder("mine", 0).mkdir(parents=True)  # shared
    require_own(study, home)
    there.close()


def of_another_home(ledger: Ledger, checkpoints: Path, **fields: str) -> StudyRecord:
    """Record a study that any home may go on with, as another one launches it."""
    base = record()
    execution = base.study.execution.model_copy(update={"checkpoints": str(checkpoints)})
    study = base.study.model_copy(update={"execution": execution})
    changed = {"study": study, "home": "elsewhere:/sweeps", **fields}
    recorded = ledger.create(base.model_copy(update=changed)).record
    assert isinstance(recorded.place, Path)
    recorded.place.mkdir(parents=True)
    put_mark(recorded.place, recorded.uid)
    return recorded


def test_a_study_is_not_deleted_from_elsewhere_than_its_runs(database: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home", database)
    home.create()
    there = Ledger(database)
    study = of_another_home(there, tmp_path / "shared")
    whose = (
        "runs of study 'mine' are those of the home elsewhere:/sweeps: delete it there, or leave"
    )
    with pytest.raises(UserError, match=whose) as caught:
        Deletion("mine", home, keep_runs=False)
    assert "\n" not in str(caught.value)
    assert there.names() == ["mine"]
    home.study_folder("mine").mkdir(parents=True)
    keep_launch(study.model_copy(update={"uid": "of a deleted study"}), home)
    with pytest.raises(UserError, match=whose):
        Deletion("mine", home, keep_runs=False)
    keep_launch(study, home)  # the home itself, mounted here
    Deletion("mine", home, keep_runs=False)
    (home.study_folder("mine") / LAUNCHED).unlink()
    Deletion("mine", home, keep_runs=True).carry_out()
    assert there.names() == []
    assert list((tmp_path / "shared").iterdir()) == []
    of_another_home(there, tmp_path / "shared", tracking_uri="http://127.0.0.1:1")
    with pytest.raises(UserError, match="does not answer"):  # a server of both
        Deletion("mine", home, keep_runs=False)
    there.close()


def test_a_deletion_that_is_cut_off_at_its_end_is_finished_by_the_same_command(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home is known by its mark alone, as where its container has another name each time."""
    home = Home(tmp_path / "home", database)
    home.create()
    there = Ledger(database)
    study = of_another_home(there, tmp_path / "shared")
    home.study_folder("mine").mkdir(parents=True)
    keep_launch(study, home)

    def cut_off(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "delete", cut_off)
        with pytest.raises(InterruptedError):
            Deletion("mine", home, keep_runs=False).carry_out()
    Deletion("mine", home, keep_runs=False).carry_out()
    assert there.names() == []
    assert not home.study_folder("mine").exists()
    there.close()


def test_who_may_not_make_tables_uses_those_that_are_there(
    ledger: Ledger, postgres: PostgresServer, database: str
) -> None:
    with ledger.owned("mine"):
        pass
    owner = database.replace("+psycopg", "")
    with psycopg.connect(owner, autocommit=True) as connection:
        where = f"127.0.0.1:{postgres.port}/{connection.info.dbname}"
        name = f"writer_{connection.info.dbname}"
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'w'")  # type: ignore[arg-type]
        connection.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"  # type: ignore[arg-type]
        )
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    writer = Ledger(f"postgresql+psycopg://{name}:w@{where}")
    with writer.owned("mine"):
        assert writer.names() == ["mine"]
    writer.close()


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:1"])
def test_who_goes_on_elsewhere_is_told_where_the_runs_go(
    database: str, tmp_path: Path, address: str | None
) -> None:
    home = Home(tmp_path / "home", database)
    home.create()
    there = Ledger(database)
    of_another_home(there, tmp_path / "shared", **({"tracking_uri": address} if address else {}))
    there.close()
    console = Console(file=StringIO())
    screen = Screen(lambda *_: pytest.fail("it has run"), console)
    with pytest.raises(UserError, match="99"):
        resume("mine", home, Machine(gpus="99"), screen)
    said = console.file.getvalue()
    told = "was launched in the home elsewhere:/sweeps, whose MLflow server has its runs so far; "
    assert said.count(told) == (address is None)


# A server that goes away


def test_both_sides_hear_of_a_host_that_is_gone(ledger: Ledger, database: str) -> None:
    """The settings alone: no test here can take a host away."""
    with ledger.storage.engine.connect() as connection:
        for setting in ("tcp_keepalives_idle", "tcp_user_timeout"):
            shown = connection.exec_driver_sql(f"SHOW {setting}").scalar()
            assert shown in ("30", "1min", "60s", "60000"), (setting, shown)
        asked = connection.connection.driver_connection
        assert asked is not None
        assert asked.info.get_parameters()["tcp_user_timeout"] == "60000"
    other = Ledger(f"{database}?options=-csearch_path%3Dpublic%2Cmore")
    with other.storage.engine.connect() as connection:  # what the address asks for, too
        assert connection.exec_driver_sql("SHOW search_path").scalar() == "public,more"
        assert connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar() == "30"
    other.close()


def test_commands_say_in_one_line_that_the_server_went_away(
    commands: list[Command], database: str, postgres: PostgresServer
) -> None:
    command = commands[1]
    assert command.succeed("list") == "no studies yet\n"  # no tables even
    ledger = Ledger(database)
    ledger.create(record())
    ledger.close()
    with held_elsewhere(database) as process:
        stopped = command.run("stop", "mine")
        assert stopped.returncode == 2
        assert f"by process {process.pid} on" in stopped.stderr
        watching = command.start("status", "mine", "--watch")
        assert watching.stdout is not None
        assert "running" in watching.stdout.readline()
        postgres.stop("immediate")
        try:
            _, err = watching.communicate(timeout=60)
        finally:
            postgres.start()
    assert watching.returncode == 2
    assert err.startswith("Error: the database server: ")
    assert err.count("\n") == 1


def test_a_storage_that_cannot_be_used_is_not_kept(
    commands: list[Command], study_file: Path
) -> None:
    command = commands[0]
    command.environment["ADARELU_SWEEP_STORAGE"] = "postgresql://me@127.0.0.1:1/db"
    assert command.run("launch", study_file).returncode == 2
    assert not (command.home / "storage").exists()


def test_what_is_to_be_recorded_waits_for_the_server(
    ledger: Ledger, postgres: PostgresServer
) -> None:
    study = ledger.open("mine")
    said: list[str] = []
    study.patience.say = said.append
    with ledger.owned("mine"):
        trial = study.begin(plan(study)[0], 1)
        postgres.stop()
        starting = threading.Timer(2.0, postgres.start)
        starting.start()
        study.report(trial, 1, 50.0)
        study.complete(trial, GOOD)
        starting.join()
    assert len(said) == 1
    assert re.match(r"the database server does not answer \(.*\): what is to be recorded ", said[0])
    assert PASSWORD not in said[0]
    assert ESCAPED not in said[0]
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_who_asks_to_stop_does_not_wait(ledger: Ledger, postgres: PostgresServer) -> None:
    study = ledger.open("mine")
    study.patience.say = print
    study.patience.exhausted = True
    postgres.stop()
    try:
        with pytest.raises(OutOfPatienceError):
            study.begin(plan(study)[0], 1)
    finally:
        postgres.start()
    study.patience.exhausted = False
    assert study.trials() == []


@pytest.mark.parametrize("change", ["begin", "complete", "resume", "lose"])
def test_an_answer_that_is_lost_after_the_change_was_made(
    ledger: Ledger, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ledger.open("mine")
    study.patience.say = lambda _line: None
    trial = study.begin(plan(study)[0], 1)
    changes: dict[str, Any] = {
        "begin": lambda: study.begin(plan(study)[1], 1),
        "complete": lambda: study.complete(trial, GOOD),
        "resume": lambda: study.resume(study.hand_back(trial)),
        "lose": lambda: study.lose(trial),
    }
    with lost_answers(study._storage.engine, monkeypatch) as lost:
        after = changes[change]()
    assert lost
    assert study.trials()[after.number] == after
    assert len(study.trials()) == (2 if change == "begin" else 1)


@contextmanager
def lost_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """The server carries commits out, and its connection breaks before it says so.

    The 1st, 3rd, 6th, 10th and so on; the dialect is where all commits of this engine pass.
    """
    losing = set(accumulate(range(1, 100)))
    commit = engine.dialect.do_commit
    count: list[None] = []

    def committed(connection: Any) -> None:
        commit(connection)
        count.append(None)
        if len(count) in losing:
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(engine.dialect, "do_commit", committed)
        yield count


def test_the_making_of_a_searchs_trial_survives_lost_answers(
    database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patience, "_PAUSE", 0.01)
    searched = record().model_copy(update={"study": read(tmp_path)})
    ledger = Ledger(database)
    study = ledger.create(searched)
    study.patience.say = lambda _line: None
    undisturbed = Ledger(tmp_path / "optuna.db").create(searched)
    proposals = []
    for each in (undisturbed, study):
        search = ArmSearch(each.record.study, each.searches()[0])
        if each is study:
            with lost_answers(study._storage.engine, monkeypatch) as lost:
                proposals.append([search.ask(1)[1].params for _ in range(3)])
            assert len(lost) > 10
        else:
            proposals.append([search.ask(1)[1].params for _ in range(3)])
    assert proposals[0] == proposals[1]
    assert len(study.searches()[0].trials()) == 3
    ledger.close()


# Addresses


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("mysql://me@host/db", "--storage is no address of a PostgreSQL database"),
        ("sqlite:///optuna.db", "--storage is no address of a PostgreSQL database"),
        ("postgresql://me@host", "--storage is no address of a PostgreSQL database"),
        ("nonsense", "--storage is no address of a PostgreSQL database"),
        ("postgresql://me@127.0.0.1:1/db", "repeat the command when it does"),
        ("postgresql://me@host.invalid/db", "repeat the command when it does"),
    ],
)
def test_addresses_that_cannot_be_used(given: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        Ledger(given)
    assert complaint in str(caught.value)


def test_looking_makes_no_tables(database: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no studies in postgresql.*: launch one") as caught:
        Ledger.existing(database)
    assert ESCAPED not in str(caught.value)
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchone() == (0,)


def test_a_wrong_password_is_not_shown(postgres: PostgresServer) -> None:
    wrong = postgres.address("postgres", password="wrong-one")
    with pytest.raises(UserError, match="password authentication failed") as caught:
        Ledger(wrong)
    assert "wrong-one" not in str(caught.value)
    assert "repeat the command" not in str(caught.value)  # no waiting helps


def test_a_database_of_somebody_else_is_left_alone(database: str) -> None:
    """MLflow's above all: both have a table ``alembic_version``."""
    address = database.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id integer)")
        with pytest.raises(UserError, match="its tables are not Optuna's"):
            Ledger(database)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == [("experiments",)]


def test_a_deletion_keeps_to_optunas_tables(ledger: Ledger, database: str) -> None:
    address = database.replace("+psycopg", "")
    ledger.create(record("another"))
    study = ledger.open("mine")
    study.complete(study.begin(plan(study)[0], 1), GOOD)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE others (study_id integer, trial_id integer)")
        connection.execute("INSERT INTO others VALUES (1, 1), (2, 2)")
        ledger.delete("mine")
        assert connection.execute("SELECT count(*) FROM others").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    assert ledger.names() == ["another"]


# Homes


def test_a_home_keeps_its_storage_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql+psycopg://me:secret@host/db"
    monkeypatch.setenv("ADARELU_SWEEP_STORAGE", address)
    home = Home.locate(tmp_path / "home")
    assert home.database == address
    assert "secret" not in f"{home} {home.shown_database}"
    home.create()
    assert not (home.root / "storage").exists()  # before it was found to be usable
    home.keep_storage()
    assert (home.root / "storage").read_text() == "postgresql+psycopg://me@host/db"
    assert Home.locate(home.root).database == address  # the same: with the password
    monkeypatch.delenv("ADARELU_SWEEP_STORAGE")
    assert Home.locate(home.root).database == "postgresql+psycopg://me@host/db"
    monkeypatch.setenv("ADARELU_SWEEP_STORAGE", "postgresql://me@host/other")
    with pytest.raises(UserError, match=r"are in postgresql\+psycopg://me@host/db: give another"):
        Home.locate(home.root)
    own = tmp_path / "own"
    own.mkdir()
    Ledger(own / "optuna.db").close()
    with pytest.raises(UserError, match=r"are in its optuna\.db"):
        Home.locate(own)


# From a file to a server


def test_a_home_moves_to_a_server(database: str, tmp_path: Path, search_study: Study) -> None:
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    searched = record("tuned").model_copy(update={"study": search_study})
    search = ArmSearch(search_study, here.create(searched).searches()[0])
    for _ in range(2):
        _, trial = search.ask(1)
        search.book.report(trial, 1, 50.0)
        search.book.complete(trial, GOOD)
    mine = here.create(record())
    mine.complete(mine.begin(plan(mine)[0], 1), GOOD)
    mine.fail(mine.begin(plan(mine)[1], 1), "no")
    mine.hand_back(mine.begin(plan(mine)[2], 1))
    mine.begin(plan(mine)[3], 2)  # as a killed supervisor leaves it
    before = {name: frozen(home.optuna_db, name) for name in ("mine", *searches(here))}
    here.close()

    said: list[str] = []
    migrate_studies(home, database, said.append)
    assert said[:2] == [
        "tuned: 2 trials copied and compared",
        "mine: 4 trials copied and compared",
    ]
    moved = Home.locate(home.root)
    assert not home.optuna_db.exists()
    assert moved.storage == database.replace(f":{ESCAPED}@", "@")
    there = Ledger(database)
    assert there.names() == ["tuned", "mine"]
    assert {name: frozen(database, name) for name in before} == before
    after = there.open("mine")
    after.repair()
    assert [trial.state.name for trial in after.trials()] == [
        *("COMPLETE", "FAIL", "WAITING", "WAITING")
    ]
    again = ArmSearch(search_study, there.open("tuned").searches()[0])
    assert again.ask(1)[1].number == 2
    there.close()


@pytest.mark.parametrize(
    ("what", "number"), [("commit", 3), ("commit", 11), ("commit", 18), ("plan", 1), ("plan", 2)]
)
def test_a_move_that_is_cut_off_changes_nothing_and_is_repeated(
    database: str, tmp_path: Path, what: str, number: int
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    for name in ("mine", "another"):
        study = here.create(record(name))
        for cell in plan(study)[:2]:
            study.complete(study.begin(cell, 1), GOOD)
    here.close()
    after = [what, str(number)]
    cut = subprocess.run([sys.executable, "-c", CUT_OFF, str(home.root), database, *after])
    assert cut.returncode == 9
    there = Ledger(database)
    assert len(there.names()) == (number if what == "plan" else 0)
    assert Home.locate(home.root).database == home.optuna_db
    migrate_studies(home, database, lambda _line: None)
    assert there.names() == ["mine", "another"]
    for name in there.names():
        assert len(there.open(name).trials()) == 2
        assert there.open(name).record.home == whereabouts(home)
    there.close()


def test_a_file_that_somebody_reads_is_set_aside_later(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    here.create(record())
    reading = sqlite3.connect(home.optuna_db, isolation_level=None)
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM studies").fetchone()
    study = here.open("mine")
    study.complete(study.begin(plan(study)[0], 1), GOOD)  # what the reader does not see yet
    here.close()
    with pytest.raises(UserError, match=r"all was moved, but .* \(somebody reads it\)"):
        migrate_studies(home, database, str)
    reading.close()
    migrate_studies(Home.locate(home.root), database, str)
    assert not home.optuna_db.exists()
    assert frozen(home.root / "optuna-moved.db", "mine") == frozen(database, "mine")


def test_a_move_that_is_cut_off_at_its_end_is_finished(database: str, tmp_path: Path) -> None:
    """The studies are there, and the file is not set aside yet."""
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    study = here.create(record())
    study.complete(study.begin(plan(study)[0], 1), GOOD)
    here.close()
    asked = Deletion("mine", home, keep_runs=True)
    cut = subprocess.run([sys.executable, "-c", CUT_OFF, str(home.root), database, "switch", "1"])
    assert cut.returncode == 9
    assert home.optuna_db.exists()
    with pytest.raises(UserError, match="were moved to"):
        asked.carry_out()
    said: list[str] = []
    for _ in range(2):
        migrate_studies(Home.locate(home.root), database, said.append)
        left = {path.name for path in home.root.glob("optuna*")}
        assert left == {"optuna-moved.db", "optuna.db.lock"}
    assert said == [f"the studies of {home.root} are in {Home.locate(home.root).storage}"] * 2
    assert frozen(home.root / "optuna-moved.db", "mine") == frozen(database, "mine")


def test_a_study_that_is_launched_during_a_move_is_not_left_behind(
    database: str, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    here.create(record())
    with pytest.raises(UserError, match="a study was launched or deleted meanwhile"):
        migrate_studies(home, database, lambda _line: here.create(record("late")) and None)
    assert Home.locate(home.root).database == home.optuna_db
    home.require_unmoved()
    here.close()
    migrate_studies(home, database, lambda _line: None)
    with pytest.raises(UserError, match=r"were moved to .*: repeat the command"):
        home.require_unmoved()  # as a launch does that began before
    assert Ledger.existing(database).names() == ["mine", "late"]
    left = {path.name for path in home.root.glob("optuna*")}
    assert left == {"optuna-moved.db", "optuna.db.lock"}  # no log without its database


CUT_OFF = """
import os, sys
from pathlib import Path
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from adarelu_sweep.home import Home
from adarelu_sweep.migrating import studies as migrating

what, left = sys.argv[3], int(sys.argv[4])

def then_cut_off(change):
    def cut_off(*arguments):
        global left
        change(*arguments)
        left -= 1
        if not left:
            os._exit(9)
    return cut_off

if what == "switch":
    Home.keep_storage = then_cut_off(Home.keep_storage)
elif what == "commit":
    PGDialect_psycopg.do_commit = then_cut_off(PGDialect_psycopg.do_commit)
else:
    migrating._publish = then_cut_off(migrating._publish)
migrating.migrate_studies(Home(Path(sys.argv[1])), sys.argv[2], print)
"""


def test_a_move_is_refused_where_it_would_lose_something(database: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    here = Ledger(home.optuna_db)
    here.create(record())
    here.close()
    running = Lease(home.study_folder("mine"), "mine")
    with running, pytest.raises(UserError, match="is being run by process"):
        migrate_studies(home, database, print)
    with pytest.raises(UserError, match="--to is no address"):
        migrate_studies(home, "nonsense", print)
    here = Ledger(home.optuna_db)
    here.create(record("half"))
    here.begin_deletion("half")
    with pytest.raises(UserError, match="'half' was cut off: finish it"):
        migrate_studies(home, database, print)
    here.delete("half")
    here.close()
    optuna.create_study(study_name="mine", storage=database, direction="maximize").ask()
    with pytest.raises(UserError, match="'mine' that is not adarelu-sweep's"):
        migrate_studies(home, database, print)
    assert len(optuna.load_study(study_name="mine", storage=database).trials) == 1
    assert Home.locate(home.root).database == home.optuna_db


def frozen(where: Path | str, name: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in vars(trial).items() if key != "_trial_id"}
        for trial in in_optuna_of(where, name)
    ]


def searches(ledger: Ledger) -> list[str]:
    return [book.name for book in ledger.open("tuned").searches()]


@pytest.fixture
def search_study(tmp_path: Path) -> Study:
    return read(tmp_path)


# Whole studies


@pytest.fixture
def commands(tmp_path: Path, database: str) -> Iterator[list[Command]]:
    """Two homes, as on two machines, with one database."""
    several = [Command(tmp_path / name, ADARELU_SWEEP_STORAGE=database) for name in ("one", "two")]
    yield several
    for command in several:
        command.close()


def in_optuna(database: str) -> list[optuna.trial.FrozenTrial]:
    storage = RDBStorage(database, engine_kwargs={"poolclass": NullPool})  # asked again and again
    if "small" not in optuna.get_all_study_names(storage):
        return []  # not yet
    return optuna.load_study(study_name="small", storage=storage).trials


@pytest.mark.long
def test_a_study_seen_and_refused_from_another_home(
    commands: list[Command], study_file: Path, database: str, tmp_path: Path
) -> None:
    one, two = commands
    running = one.start("launch", study_file, "--set", "training.epochs=100")
    wait_until(lambda: any(line.startswith("small: running") for line in listed(two)))
    assert f"process {running.pid} on " in two.succeed("status", "small")
    for verb in (["resume", "small"], ["delete", "small", "--yes"]):
        refused = two.run(*verb)
        assert refused.returncode == 2
        assert "small" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    again = two.run("launch", study_file)
    assert again.returncode == 2
    assert "study 'small' exists" in again.stderr
    wait_until(lambda: any(t.intermediate_values for t in in_optuna(database)))
    running.kill()
    running.communicate()
    wait_until(lambda: listed(two) == [line for line in listed(two) if "interrupted" in line])
    for verb in (["resume", "small"], ["delete", "small", "--yes"]):
        elsewhere = two.run(*verb)
        assert elsewhere.returncode == 2
        assert f"{one.home}, where its checkpoints are: give that folder" in elsewhere.stderr
    assert not (two.home / "trials" / "small").exists()
    stopped = one.start("resume", "small")
    wait_until(lambda: "small: running" in one.succeed("list"))
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(30) == 143
    one.succeed("server", "stop")
    one.home = one.home.rename(tmp_path / "mounted elsewhere")
    one.environment["ADARELU_SWEEP_HOME"] = str(one.home)
    assert "no run in MLflow" not in one.succeed("delete", "small", "--yes")
    assert two.succeed("list") == "no studies yet\n"
    for folder in (one.home, two.home):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not any(secret.encode() in content for secret in (PASSWORD, ESCAPED)), path


def listed(command: Command) -> list[str]:
    return command.succeed("list").splitlines()


@pytest.mark.longest
@pytest.mark.timeout(900)
def test_sixteen_workers_and_a_restart_of_the_server(
    commands: list[Command], study_file: Path, database: str, postgres: PostgresServer
) -> None:
    """Nothing lost, nothing twice, in neither book: MLflow has a database of its own there."""
    command, mlflow = commands[0], postgres.database()
    command.environment["MLFLOW_TRACKING_URI"] = mlflow
    running = command.start(
        *("launch", study_file, "--workers", "16", "--set", "matrix.seeds=12"),
        *("--set", "training.epochs=4"),
        cwd=study_file.parent,  # where MLflow keeps artifacts of a tracker that is a database
    )
    wait_until(
        lambda: sum(t.state is TrialState.COMPLETE for t in in_optuna(database)) >= 8, seconds=400
    )
    postgres.stop("immediate")
    threading.Event().wait(3)
    postgres.start()
    _, err = running.communicate(timeout=400)
    assert running.returncode == 0, err
    assert err.count("the database server does not answer") == 1
    trials = in_optuna(database)
    assert len({trial.user_attrs["cell"] for trial in trials}) == len(trials) == 24
    for trial in trials:
        assert trial.state is TrialState.COMPLETE
        assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.user_attrs["attempts"] == 1
    trained = (
        "FROM runs JOIN tags USING (run_uuid) WHERE key = 'adarelu_sweep.kind' AND value = 'trial'"
    )
    accuracies = f"run_uuid IN (SELECT run_uuid {trained}) AND key = 'test/accuracy'"
    with psycopg.connect(mlflow.replace("+psycopg", "")) as connection:
        states = connection.execute(f"SELECT status, count(*) {trained} GROUP BY status")
        assert states.fetchall() == [("FINISHED", 24)]
        rows = connection.execute(f"SELECT run_uuid, step FROM metrics WHERE {accuracies}")
        steps = rows.fetchall()
    assert len(steps) == len(set(steps)) == 96
