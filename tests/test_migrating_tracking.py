"""MLflow's records from a home's file to a PostgreSQL server: whole, once, and used afterwards."""

import math
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from filelock import FileLock, Timeout
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, event

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.migrating.records import migrate_records
from adarelu_sweep.recording import silence
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.tracking import first_start
from adarelu_sweep.tracking.database import database_of
from adarelu_sweep.tracking.server import ensure_server, find_server, stop_server
from tests.postgres import ESCAPED, PASSWORD, PostgresServer
from tests.sweeps import Command
from tests.waiting import wait_until

HUGE = 1.7976931348623157e308  # what MLflow keeps in place of infinity


@pytest.fixture
def database(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database; its address has no password, as on a command line."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres.database().replace(f":{ESCAPED}@", "@")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database of a home whose server has recorded something of many kinds."""
    home = Home(tmp_path_factory.mktemp("recorded"))
    record_something(home)
    return home.mlflow_db


@pytest.fixture
def home(tmp_path: Path, recorded: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    shutil.copy(recorded, home.mlflow_db)
    return home


def record_something(home: Home) -> None:
    store = SqlAlchemyStore(database_of(home), home.artifacts.as_uri())
    client = MlflowClient(database_of(home), database_of(home))
    for name in ("deleted", "mine"):
        experiment = client.create_experiment(name, tags={"who": name})
    client.delete_experiment("1")
    run = client.create_run(experiment, run_name="a trial").info.run_id
    values = (1 / 3, -0.0, math.nan, math.inf, 5e-324)
    metrics = [Metric("loss", value, 1_700_000_000_000, n) for n, value in enumerate(values)]
    metrics += [Metric("many", n / 7, n, n) for n in range(990)]
    client.log_batch(run, metrics, [Param("lr", "0.1")], [RunTag("text", "späť ' \" \\ \n☃")])
    client.log_batch(run, [Metric("many", n / 7, n, n) for n in range(990, 1980)])  # two batches
    client.create_registered_model("best")
    client.create_model_version("best", "runs:/x/model", run)
    client.set_registered_model_alias("best", "best", "1")
    data = store.create_dataset("d", {"a": "b"}, [experiment])
    store.upsert_dataset_records(
        data.dataset_id,
        [
            {"inputs": {"z": 1, "a": [None, True, 0.1]}},
            {"inputs": {"z": 2}, "outputs": {"y": 1e99}},
        ],
    )
    store.engine.dispose()


def in_file(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def on_server(database: str, query: str) -> list[Any]:
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        return connection.execute(query).fetchall()


def experiments(database: str) -> list[Any]:
    return on_server(database, "SELECT name, lifecycle_stage FROM experiments ORDER BY 1")


def test_all_of_it_is_there_afterwards(home: Home, database: str) -> None:
    said: list[str] = []
    migrate_records(home, database.replace("+psycopg", ""), said.append)
    assert "MLflow's metrics: 1985 rows copied and compared" in said
    assert f"are in {database}, and its server uses them" in said[-1]
    assert database_of(home) == database
    assert not home.mlflow_db.exists()
    moved = home.root / "mlflow-moved.db"
    for table, columns in {
        "metrics": "run_uuid, key, value, timestamp, step",
        "latest_metrics": "run_uuid, key, value, timestamp, step",
        "experiments": "experiment_id, name, artifact_location, lifecycle_stage, creation_time",
        "tags": "run_uuid, key, value",
        "registered_model_aliases": "name, alias, version",
        "evaluation_dataset_records": "dataset_record_id, created_time",
    }.items():
        query = f"SELECT {columns} FROM {table}"
        assert sorted(on_server(database, query)) == sorted(in_file(moved, query))
    truths = on_server(database, "SELECT step, value, is_nan FROM metrics WHERE key = 'loss'")
    assert sorted(truths)[1:4] == [(1, -0.0, False), (2, 0.0, True), (3, HUGE, False)]
    written = "SELECT CAST(inputs AS text), CAST(outputs AS text) FROM evaluation_dataset_records"
    assert on_server(database, written) == in_file(moved, written)
    assert len(on_server(database, written)) == 2
    client = MlflowClient(database, database)
    assert client.get_model_version_by_alias("best", "best").source == "runs:/x/model"
    (run,) = client.search_runs(["2"])
    assert math.isnan(client.get_metric_history(run.info.run_id, "loss")[2].value)
    assert client.create_experiment("next") == "3"  # whose number the server gives
    again: list[str] = []
    migrate_records(home, database, again.append)
    assert again == [f"MLflow's records of {home.root} are in {database}"]
    with pytest.raises(UserError, match=f"are in {re.escape(database)} already"):
        migrate_records(home, f"{database}x", print)


CUT_OFF = """
import os, sys
from pathlib import Path
import mlflow.store.db.utils as mlflows
from adarelu_sweep.home import Home
from adarelu_sweep.migrating import records as moving

def then_cut_off(place, name, left=1, before=False):
    change = getattr(place, name)
    def cut_off(*arguments):
        nonlocal left
        left -= 1
        done = None if before and not left else change(*arguments)
        if not left:
            os._exit(9)
        return done
    setattr(place, name, cut_off)

match sys.argv[3]:
    case "first tables": then_cut_off(mlflows, "_upgrade_db", before=True)
    case "all tables": then_cut_off(mlflows, "_initialize_tables")
    case "copying": then_cut_off(moving, "copy", left=30)
    case "copied": then_cut_off(Home, "keep_tracking_storage", before=True)
    case "kept": then_cut_off(Home, "keep_tracking_storage")
moving.migrate_records(Home(Path(sys.argv[1])), sys.argv[2], print)
"""


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("first tables", marks=pytest.mark.long),
        pytest.param("all tables", marks=pytest.mark.long),
        "copying",
        pytest.param("copied", marks=pytest.mark.long),
        pytest.param("kept", marks=pytest.mark.long),
    ],
)
def test_a_move_that_is_cut_off_is_repeated(home: Home, database: str, where: str) -> None:
    cut = subprocess.run([sys.executable, "-c", CUT_OFF, str(home.root), database, where])
    assert cut.returncode == 9
    assert (home.tracking_storage() is None) == (where != "kept")
    assert home.mlflow_db.exists()
    if where == "copying":
        assert experiments(database) == []
    migrate_records(home, database, lambda _line: None)
    assert home.tracking_storage() == database
    assert {path.name for path in home.root.glob("mlflow*")} == {"mlflow-moved.db"}
    expected = [("Default", "active"), ("deleted", "deleted"), ("mine", "active")]
    assert experiments(database) == expected
    assert on_server(database, "SELECT count(*) FROM metrics") == [(1985,)]
    assert on_server(database, "SELECT name FROM workspaces") == [("default",)]


def test_a_move_is_refused_where_it_would_lose_something(home: Home, database: str) -> None:
    def refused(complaint: str, address: str = database) -> None:
        with pytest.raises(UserError, match=complaint) as caught:
            migrate_records(home, address, print)
        assert "\n" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
        assert database_of(home) == f"sqlite:///{home.mlflow_db}"
        assert home.mlflow_db.exists()

    refused("--tracking-to is no address", "nonsense")
    refused("repeat the command when it does", "postgresql://me@127.0.0.1:1/db")
    with Lease(home.study_folder("small"), "small"):
        refused("study 'small' is being run by process")
    with closing(sqlite3.connect(home.mlflow_db, isolation_level=None)) as writer:
        writer.execute("UPDATE alembic_version SET version_num = version_num || 'x'")
        refused("was made by another version of MLflow: bring it up to date with 'mlflow db up")
        writer.execute("UPDATE alembic_version SET version_num = rtrim(version_num, 'x')")
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE studies (study_id integer)")
        refused("holds tables that are not MLflow's: give an empty database")
        connection.execute("DROP TABLE studies")
        MlflowClient(database, database).create_experiment("another's")
        refused("holds other records: give an empty database")
        assert experiments(database) == [("Default", "active"), ("another's", "active")]
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
        refused("is of another version of MLflow: give an empty database")
    (home.root / "mlflow-moved.db").touch()
    refused("is in the way")
    (home.root / "mlflow-moved.db").unlink()
    first_start._mark(home.mlflow_db).touch()
    refused("has no records of MLflow yet")


def launched(home: Home, _database: str) -> None:
    home.study_folder("late").mkdir()


def moved(home: Home, database: str) -> None:
    home.keep_tracking_storage(database)
    home.mlflow_db.rename(home.root / "mlflow-moved.db")


@pytest.mark.parametrize("what", [launched, moved])
def test_what_happens_while_the_locks_are_waited_for_is_noticed(
    home: Home, database: str, what: Callable[[Home, str], None]
) -> None:
    home.study_folder("small").mkdir(parents=True)
    with ThreadPoolExecutor() as threads, FileLock(home.root / "server.lock") as starting:
        moving = threads.submit(migrate_records, home, database, print)
        wait_until((home.study_folder("small") / "lease.json").exists)
        what(home, database)
        starting.release()
        with pytest.raises(UserError, match=f"{what.__name__} meanwhile: repeat the command"):
            moving.result(60)
    assert home.mlflow_db.exists() == (what is launched)


def test_a_server_that_hangs_is_given_up_and_no_study_begins_meanwhile(
    home: Home, database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "PATIENCE", 1.0)
    hang = ExitStack()
    resuming = threading.Timer(20, hang.close)

    def begin(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("LOCK TABLE"):
            hang.enter_context(postgres.hanging())
            resuming.start()
            with pytest.raises(Timeout):
                FileLock(home.switch_lock).acquire(timeout=0)

    event.listen(Engine, "before_cursor_execute", begin)
    try:
        with pytest.raises(UserError, match=r"silent for 1 s.*: repeat the command") as caught:
            migrate_records(home, database, print)
        assert resuming.is_alive()
    finally:
        event.remove(Engine, "before_cursor_execute", begin)
        resuming.cancel()
        hang.close()
    assert "\n" not in str(caught.value)
    migrate_records(home, database, lambda _line: None)
    assert experiments(database) == [
        ("Default", "active"),
        ("deleted", "deleted"),
        ("mine", "active"),
    ]


def test_what_the_server_does_not_take_moves_nothing(home: Home, database: str) -> None:
    """SQLite takes texts of any length, with any characters."""
    with closing(sqlite3.connect(home.mlflow_db, isolation_level=None)) as writer:
        writer.execute("UPDATE tags SET value = 'a' || char(0) || 'b'")
    with pytest.raises(UserError, match=r"records are not moved to .*NUL") as caught:
        migrate_records(home, database, print)
    assert "\n" not in str(caught.value)
    assert experiments(database) == []
    assert home.tracking_storage() is None


def test_a_server_that_is_up_is_stopped_first(home: Home, database: str) -> None:
    server = ensure_server(home)
    try:
        with pytest.raises(UserError, match=rf"is up at {server.url}: stop it first with"):
            migrate_records(home, database, print)
    finally:
        stop_server(home)
    assert home.tracking_storage() is None


def test_a_database_server_that_is_away_is_named(home: Home, database: str) -> None:
    home.keep_tracking_storage("postgresql+psycopg://me@127.0.0.1:1/db")
    with pytest.raises(UserError, match=r"which cannot be used .*: start its server") as caught:
        ensure_server(home)
    assert "\n" not in str(caught.value)
    assert find_server(home) is None


# Whole studies


@pytest.fixture
def command(tmp_path: Path, database: str) -> Iterator[Command]:
    command = Command(tmp_path / "home", PGPASSWORD=PASSWORD)
    yield command
    command.close()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "give --to for the studies, --tracking-to for MLflow's records, or both"),
        (("--to", "postgresql://me@h/a", "--tracking-to", "postgresql://me@h/a"), "of its own"),
        (("--tracking-to", "postgresql://me:s3cret@h/a"), "--tracking-to holds a password"),
        (("--tracking-to", "postgresql://me@h/a"), "has no records of MLflow yet"),
    ],
)
def test_one_line_says_what_to_give(
    tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    done = Command(tmp_path / "home").run("home", "migrate", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_study_goes_on_after_the_move(
    command: Command, study_file: Path, database: str, postgres: PostgresServer
) -> None:
    """Both books are moved in the middle of a study; nothing is trained, or recorded, twice."""
    running = command.start("launch", study_file, "--set", "training.epochs=30")
    client = MlflowClient(wait_until(lambda: command.succeed("server", "start").strip()))
    wait_until(lambda: len(trials(client)) >= 2 and "FINISHED" in states(client))
    command.succeed("stop", "small", "--now")
    running.communicate()
    assert states(client) != ["FINISHED"] * 4
    before = {run.info.run_id: run.info.artifact_uri for run in trials(client)}
    to = postgres.database().replace(f":{ESCAPED}@", "@")
    up = command.run("home", "migrate", "--tracking-to", database)
    assert up.returncode == 2
    assert "stop it first with 'adarelu-sweep server stop'" in up.stderr
    command.succeed("server", "stop")
    said = command.succeed("home", "migrate", "--to", to, "--tracking-to", database)
    assert "MLflow's runs: " in said
    command.succeed("resume", "small")
    url = command.succeed("server", "start").strip()
    client = MlflowClient(url)
    runs = trials(client)
    assert states(client) == ["FINISHED"] * 4
    assert before.items() <= {run.info.run_id: run.info.artifact_uri for run in runs}.items()
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [metric.step for metric in history] == list(range(1, 31))
        assert client.list_artifacts(run.info.run_id)
    server = find_server(Home(command.home))
    assert server is not None
    for process in server.processes():
        assert not any("postgresql" in argument for argument in process.cmdline())
    assert f"{database} answers, with MLflow's tables" in command.run("doctor").stdout
    command.succeed("report", "small", "--no-figures")
    command.succeed("delete", "small", "--yes")
    assert on_server(database, "SELECT count(*) FROM runs") == [(0,)]
    assert experiments(database) == [("Default", "active")]
    assert not (command.home / "mlflow.db").exists()
    for path in command.home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(secret.encode() in content for secret in (PASSWORD, ESCAPED)), path


def trials(client: MlflowClient) -> list[Any]:
    found = client.get_experiment_by_name("small")
    kind = "tags.`adarelu_sweep.kind` = 'trial'"
    return client.search_runs([found.experiment_id], kind, ViewType.ALL) if found else []


def states(client: MlflowClient) -> list[str]:
    return [run.info.status for run in trials(client)]
