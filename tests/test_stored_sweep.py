"""Whole sweeps whose checkpoints, and data, lie elsewhere: in a store, or in a folder."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adarelu_sweep.datasets.npz import save
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.storing.marks import MARK, put_mark
from adarelu_sweep.storing.places import place_at, write_whole
from tests.chaos.books import Books, differences
from tests.object_store import SECRET, Fault, ObjectStore
from tests.postgres import PostgresServer
from tests.sweeps import STUDY, Command, Sweep
from tests.waiting import wait_until

WRITES = ("PUT", "POST")


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY.replace("epochs = 3", "epochs = 12"))
    return path


@pytest.fixture(scope="module")
def undisturbed(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """The study with its checkpoints in the home."""
    command = Command(tmp_path_factory.mktemp("local") / "home")
    command.succeed("launch", study_file, "--gpus", "none", "--workers", "2")
    yield Books(command.home, "small")
    command.close()


@pytest.fixture
def command(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """A home whose commands, and this process, have access to the store."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    command = Command(tmp_path / "home", **object_store.environment)
    yield command
    command.close()
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def arguments(study_file: Path, place: object) -> list[str]:
    options = ["--gpus", "none", "--workers", "2", "--set", f"execution.checkpoints={place}"]
    return ["launch", str(study_file), *options]


def epochs_begun(home: Path) -> int:
    """How many epochs of trials the book has."""
    if not (home / "optuna.db").exists():
        return 0
    with sqlite3.connect(f"file:{home / 'optuna.db'}?mode=ro", uri=True) as connection:
        try:
            query = "select count(*) from trial_intermediate_values"
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def workers_of(supervisor: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(supervisor.pid).children(recursive=True)
        if "adarelu_sweep.launching.worker" in child.cmdline()
    ]


def checked(command: Command) -> list[str]:
    """What doctor finds of the places in which studies have checkpoints."""
    done = command.run("doctor", "--json")
    found = json.loads(done.stdout)
    return [each["state"] for each in found["findings"] if each["name"] == "checkpoints"]


@pytest.mark.longest
@pytest.mark.timeout(900)
def test_a_study_in_a_store_in_trouble_ends_with_the_numbers_of_one_in_the_home(
    command: Command, object_store: ObjectStore, study_file: Path, undisturbed: Books
) -> None:
    """Workers and supervisor are killed, requests fail, hang and are cut off; nothing is lost."""
    troubles = [
        Fault("error", share=0.1),
        Fault("busy", share=0.05),
        Fault("cut request", share=0.1, methods=WRITES),
        Fault("cut answer", share=0.05),
        Fault("hang", next=1, methods=WRITES, keys="checkpoint"),
    ]
    with object_store.failing(*troubles):
        launched = command.start(*arguments(study_file, object_store.address))
        wait_until(lambda: epochs_begun(command.home) > 3, seconds=300)
        workers_of(launched)[0].kill()
        wait_until(lambda: epochs_begun(command.home) > 12, seconds=300)
        launched.kill()
        launched.communicate()
        err = command.run("resume", "small").stderr
    assert "resumed after epoch" in err
    if "the report is not written" in err:  # it reads all, and each request may fail too often
        command.succeed("report", "small")
    for fate in ("error", "cut request", "hang"):
        assert object_store.happened["PUT", fate] > 0, object_store.happened
    books = Books(command.home, "small")
    assert differences(books, undisturbed) == []
    assert sum(trial.optuna.user_attrs.get("losses", 0) for trial in books.trials) >= 1
    stored = object_store.contents()
    uid = books._ledger.record.uid[:12]
    names = ("checkpoint.safetensors", "confusion_matrix.csv", "model.safetensors")
    files = [f"{number:05d}/{name}" for number in range(4) for name in names]
    assert sorted(stored) == [f"some/where/small-{uid}/{name}" for name in [*files, MARK]]
    kept = [path.name for trial in books.trials for path in trial.folder.iterdir()]
    assert set(kept) == {"delivered.json"}
    for path in command.home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in err
    assert checked(command) == ["ok"]
    with object_store.away():
        assert checked(command) == ["failed"]
        refused = command.run("delete", "small", "--yes")
        assert refused.returncode == 2
        assert "study 'small' is not deleted; where that is gone for good" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    said = command.succeed("delete", "small", "--yes")
    assert f"{object_store.address}/small-{uid}" in said
    assert object_store.contents() == {}


@pytest.mark.long
def test_training_goes_on_while_the_store_is_away(
    command: Command, object_store: ObjectStore, study_file: Path
) -> None:
    options = ("--set", "matrix.seeds=1", "--set", "matrix.activation=relu")
    sweep = Sweep(command.start(*arguments(study_file, object_store.address), *options))
    sweep.until(r"epoch 1/")
    with object_store.away():
        sweep.until(
            r"relu/0: its checkpoint is not written \(s3://\S+: the store does not answer as it "
            r"should \(.*\)\): training goes on, and it is written once that is over"
        )
    assert sweep.ends() == 0, sweep.said
    assert "Traceback" not in sweep.said
    assert differences(Books(command.home, "small")) == []


@pytest.mark.long
def test_a_trial_waits_for_a_store_that_may_have_its_checkpoint(
    command: Command, object_store: ObjectStore, study_file: Path
) -> None:
    """Begun anew without it, it would stand in the books twice."""
    options = ("--set", "matrix.seeds=1", "--set", "matrix.activation=relu")
    sweep = Sweep(command.start(*arguments(study_file, object_store.address), *options))
    sweep.until(r"epoch 4/")
    with object_store.away():
        (worker,) = workers_of(sweep.process)
        worker.kill()
        sweep.until(r"relu/0: it waits for what may be stored of it \(s3://")
        begun = epochs_begun(command.home)
        time.sleep(3)
        assert epochs_begun(command.home) == begun
    assert sweep.ends() == 0, sweep.said
    assert "resumed after epoch" in sweep.said
    assert sweep.said.count("it waits for") == 1
    assert differences(Books(command.home, "small")) == []


@pytest.mark.long
def test_who_asks_to_stop_does_not_wait_for_the_store(
    command: Command, object_store: ObjectStore, study_file: Path
) -> None:
    sweep = Sweep(command.start(*arguments(study_file, object_store.address)))
    sweep.until(r"epoch 1/", times=2)
    with object_store.failing(Fault("hang")):
        wait_until(lambda: any(fate == "hang" for _, fate in object_store.happened))
        began = time.monotonic()
        sweep.process.send_signal(signal.SIGTERM)
        assert sweep.ends() == 128 + signal.SIGTERM, sweep.said
        assert time.monotonic() - began < 10
    command.succeed("resume", "small")
    assert differences(Books(command.home, "small")) == []


@pytest.mark.long
def test_workers_that_need_nothing_but_a_store(
    command: Command,
    object_store: ObjectStore,
    study_file: Path,
    undisturbed: Books,
    tmp_path: Path,
) -> None:
    """Their data set comes from there, once for all of a machine; the record says from where."""
    origin, cache = f"{object_store.address}/data", tmp_path / "cache"
    command.environment["ADARELU_SWEEP_CACHE"] = str(cache)
    launch = [*arguments(study_file, object_store.address), "--data-dir", origin]
    save(read("digits", tmp_path), tmp_path / "digits.npz")  # the same images, but from a file
    write_whole(place_at(origin) / "digits.npz", (tmp_path / "digits.npz").read_bytes())
    with object_store.failing(Fault("cut answer", next=1, methods=("GET",), keys="digits")):
        sweep = Sweep(command.start(*launch))
        sweep.until(r"epoch 2/", times=2)
    assert f"Fetching digits from {origin}" in sweep.said
    sweep.process.kill()
    sweep.process.communicate()
    shutil.rmtree(cache)  # as on another machine
    said = command.run("resume", "small").stderr
    assert "resumed after epoch" in said
    books = Books(command.home, "small")
    assert differences(books, undisturbed) == []
    assert books._ledger.record.data_folder == origin
    (folder,) = (cache / "data").iterdir()
    assert (folder / "prepared" / "digits.safetensors").exists()
    got = [fate for asked, fate in object_store.proxy.seen if re.search("GET.*digits.npz", asked)]
    assert sorted(got) == ["cut answer", "pass", "pass"]
    assert f"digits: {origin}/digits.npz" in command.succeed("data", "list", "--data-dir", origin)


@pytest.mark.long
def test_a_store_without_the_data_is_refused_and_nothing_is_recorded(
    command: Command, object_store: ObjectStore, study_file: Path, tmp_path: Path
) -> None:
    command.environment["ADARELU_SWEEP_CACHE"] = str(tmp_path / "cache")
    origin = f"{object_store.address}/data"
    other = ["--set", "matrix.dataset=own"]

    def refused(verb: str, *options: str) -> str:
        done = command.run(verb, study_file, "--gpus", "none", "--data-dir", origin, *options)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    for verb in ("launch", "validate"):
        assert f"there is no data set 'own' in {origin}: put own.npz" in refused(verb, *other)
    with object_store.away():
        for verb in ("launch", "validate"):
            assert f"{origin}/digits.npz: the store does not answer" in refused(verb)
        found = json.loads(command.run("doctor", "--data-dir", origin, "--json").stdout)
        states = {(each["area"], each["name"]): each["state"] for each in found["findings"]}
        assert states["data", "store"] == "failed"
    assert command.succeed("list") == "no studies yet\n"


@pytest.mark.long
def test_what_cannot_be_used_is_refused_and_nothing_is_recorded(
    command: Command, object_store: ObjectStore, study_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, complaint in {
        "s3://no-such-bucket/x": "there is no such bucket: no checkpoints can be kept there",
        "checkpoints": "give s3://BUCKET/PREFIX, or the whole path of a folder",
        "gs://bucket/x": "give s3://BUCKET/PREFIX, or the whole path of a folder",
        file: f"{file}",
    }.items():
        refused = command.run(*arguments(study_file, place))
        assert refused.returncode == 2, place
        assert complaint in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    with object_store.away():
        refused = command.run(*arguments(study_file, object_store.address))
    assert refused.returncode == 2
    assert "does not answer as it should" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert command.succeed("list") == "no studies yet\n"


@pytest.mark.long
def test_another_home_goes_on_with_a_study_in_a_folder_that_both_reach(
    postgres: PostgresServer, study_file: Path, tmp_path: Path
) -> None:
    """The first home is gone, as when its machine is; the book is on a server."""
    database, shared = postgres.database(), tmp_path / "shared"
    tracking = postgres.database()
    homes = [
        Command(tmp_path / name, ADARELU_SWEEP_STORAGE=database, MLFLOW_TRACKING_URI=tracking)
        for name in ("one", "two")
    ]
    one, two = homes
    launched = one.start(*arguments(study_file, shared), cwd=tmp_path)
    wait_until(lambda: len(list(shared.rglob("checkpoint.safetensors"))) >= 3, seconds=120)
    launched.kill()
    launched.communicate()
    one.home.rename(tmp_path / "gone")
    resumed = two.start("resume", "small", cwd=tmp_path)
    _, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert "resumed after epoch" in err
    changed = two.run("resume", "small", "--set", f"execution.checkpoints={tmp_path / 'new'}")
    assert changed.returncode == 2
    assert f"execution.checkpoints: that of study 'small' is {shared}" in changed.stderr
    two.succeed("delete", "small", "--yes")
    assert list(shared.iterdir()) == []


@pytest.mark.long
def test_a_folder_that_is_not_mounted_is_waited_for_or_refused_and_never_made(
    study_file: Path, undisturbed: Books, tmp_path: Path
) -> None:
    command, mount, away = Command(tmp_path / "home"), tmp_path / "mount", tmp_path / "away"
    missing = f"{MARK} is missing there: mount the folder that it is in"
    sweep = Sweep(command.start(*arguments(study_file, mount)))
    try:
        sweep.until(r"epoch 2/", times=2)
        mount.rename(away)
        sweep.until(rf"its checkpoint is not written \(.*{missing}\): training goes on")
        workers_of(sweep.process)[0].kill()
        sweep.until(rf"it waits for what may be stored of it \(.*{missing}\)")
        sweep.process.kill()
        sweep.process.wait()
        for used in (["resume", "small"], ["report", "small"], ["delete", "small", "--yes"]):
            refused = command.run(*used)
            assert refused.returncode == 2, used
            assert missing in refused.stderr
            assert len(refused.stderr.splitlines()) == 1
        assert checked(command) == ["failed"]
        assert not mount.exists()
        away.rename(mount)
        assert checked(command) == ["ok"]
        sweep = Sweep(command.start("resume", "small"))
        sweep.until(r"resumed after epoch")
        mount.rename(away)
        sweep.until(missing)
        away.rename(mount)
        assert sweep.ends() == 0, sweep.said
        assert differences(Books(command.home, "small"), undisturbed) == []
        command.succeed("delete", "small", "--yes")
        assert list(mount.iterdir()) == []
    finally:
        command.close()


@pytest.mark.long
def test_who_is_superseded_ends_in_one_line_and_the_study_goes_on_elsewhere(
    study_file: Path, undisturbed: Books, tmp_path: Path
) -> None:
    """Another supervisor takes the place of one that has lost its right to the study's book."""
    command, shared = Command(tmp_path / "home"), tmp_path / "shared"
    sweep = Sweep(command.start(*arguments(study_file, shared)))
    try:
        sweep.until(r"epoch 2/", times=2)
        (mark,) = shared.rglob(MARK)
        put_mark(mark.parent, json.loads(mark.read_text())["study"])
        assert sweep.ends() == 2, sweep.said
        assert "Traceback" not in sweep.said
        assert "nothing more of it is written here" in sweep.said
        assert re.findall("^Error: .*", sweep.said, re.MULTILINE) == [
            "Error: another supervisor has taken study 'small': 'adarelu-sweep status small' says "
            "where it runs"
        ]
        logs = (command.home / "logs" / "small").glob("worker-*.log")
        assert any("nothing more of it is written here" in log.read_text() for log in logs)
        command.succeed("resume", "small")
        books = Books(command.home, "small")
        assert differences(books, undisturbed) == []
        assert not any(trial.optuna.user_attrs.get("losses") for trial in books.trials)
    finally:
        command.close()


@pytest.mark.longest
@pytest.mark.parametrize("returns", ["while it is trained elsewhere", "after it ended elsewhere"])
def test_a_supervisor_that_was_cut_off_finds_that_another_one_has_its_study(
    postgres: PostgresServer, study_file: Path, undisturbed: Books, tmp_path: Path, returns: str
) -> None:
    """Its machine stands still and is given up by the server; its workers train on meanwhile."""
    database, shared = postgres.database(), tmp_path / "shared"
    one, two = (Command(tmp_path / name, ADARELU_SWEEP_STORAGE=database) for name in ("one", "two"))
    try:
        first = Sweep(one.start(*arguments(study_file, shared)))
        first.until(r"epoch 2/", times=2)
        workers = workers_of(first.process)
        first.process.send_signal(signal.SIGSTOP)
        postgres.cut_off(f"adarelu-sweep {first.process.pid} %")
        second = Sweep(two.start("resume", "small"))
        second.until(r"resumed after epoch")
        if returns.startswith("while"):
            first.process.send_signal(signal.SIGCONT)
            assert first.ends() == 2, first.said
        assert second.ends() == 0, second.said
        psutil.wait_procs(workers, timeout=30)
        if returns.startswith("after"):
            first.process.send_signal(signal.SIGCONT)
            assert first.ends() == 2, first.said
        assert not any(worker.is_running() for worker in workers)
        assert "Traceback" not in first.said
        (error,) = re.findall("^Error: .*", first.said, re.MULTILINE)
        heard = "(is being|was) run by (another )?process|another supervisor has taken"
        assert re.search(heard, error)
        assert differences(Books(two.home, "small", database), undisturbed) == []
    finally:
        one.close()
        two.close()
