"""Artifacts of the home's own server in an object store, or in another folder."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.store.artifact import s3_artifact_repo
from mlflow.tracking import MlflowClient

from adarelu_sweep.diagnosing.finding import State
from adarelu_sweep.diagnosing.places import artifacts_elsewhere
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.operating.deleting import Deletion
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.secrets import concealed
from adarelu_sweep.storing import objects
from adarelu_sweep.storing.objects import ObjectPath
from adarelu_sweep.tracking.artifact_place import choose, require_ours, server_environment
from adarelu_sweep.tracking.database import database_of
from adarelu_sweep.tracking.experiment import STUDY_TAG
from adarelu_sweep.tracking.removal import StudyRecords
from adarelu_sweep.tracking.server import ensure_server, find_server
from tests.object_store import SECRET, Fault, ObjectStore
from tests.sweeps import STUDY, Command
from tests.test_ledger import record
from tests.test_tracking import steps

MARK = "some/where/adarelu-sweep.home"


@pytest.fixture
def store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store that this process has access to; its client is impatient."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "_READ_TIMEOUT", 1)
    s3_artifact_repo._cached_get_s3_client.cache_clear()  # it is kept for minutes
    yield object_store
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def refused(home: Home, address: str) -> str:
    """Return why a place is refused, which changes nothing."""
    before = home.artifacts
    with pytest.raises(UserError) as told:
        choose(home, address)
    assert home.artifacts == before
    assert "\n" not in str(told.value)
    return str(told.value)


# Where artifacts may be


def test_a_place_is_kept_without_secrets_and_marked(home: Home, store: ObjectStore) -> None:
    assert home.artifacts == home.root / "artifacts"
    for _ in range(2):  # as it is after a kill, the mark comes first
        home.artifacts_file.unlink(missing_ok=True)
        choose(home, store.address)
        assert home.artifacts == ObjectPath(store.address)
        assert home.artifacts_file.read_text() == store.address
        assert set(store.contents()) == {MARK}
    require_ours(home)
    choose(home, f"{store.address}/")  # the same


def test_a_folder_is_a_place_too(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "large" / "disk"
    choose(home, str(place))
    assert home.artifacts == place
    require_ours(home)
    (place / "adarelu-sweep.home").unlink()  # as where the disk is not mounted
    with pytest.raises(UserError, match="mount the folder"):
        require_ours(home)
    choose(home, str(home.own_artifacts))
    assert not home.artifacts_file.exists()
    assert home.artifacts == home.own_artifacts
    require_ours(home)


@pytest.mark.parametrize(
    "address", ["gs://bucket/prefix", "s3://", "s3://no_bucket/x", "relative/folder", "~nobody-x/y"]
)
def test_what_is_no_place_is_refused(home: Home, address: str) -> None:
    assert "give s3://BUCKET/PREFIX, or the whole path of a folder" in refused(home, address)


@pytest.mark.long
def test_a_store_that_cannot_be_used_is_refused(home: Home, store: ObjectStore) -> None:
    assert "there is no such bucket" in refused(home, "s3://no-such-bucket/prefix")
    with store.failing(Fault("error", methods=["PUT"])):
        assert "does not answer as it should" in refused(home, store.address)
    with store.failing(Fault("hang")):
        assert "does not answer as it should" in refused(home, store.address)
    with store.away():
        assert "does not answer as it should" in refused(home, store.address)
    assert store.contents() == {}
    choose(home, store.address)


def test_a_missing_package_is_named(
    home: Home, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adarelu_sweep.tracking.artifact_place.find_spec", lambda _name: None)
    assert "pip install 'adarelu-sweep[s3]'" in refused(home, store.address)


def test_nobody_elses_place_is_taken(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    """A deletion would remove what has the same number there."""
    other = Home(tmp_path / "other")
    other.create()
    choose(other, store.address)
    assert f":{other.root}: give an empty place" in refused(home, store.address)
    client = store.client()
    client.put_object(Bucket=store.bucket, Key="full/1/data", Body=b"of somebody")
    address = f"s3://{store.bucket}/full"
    assert "holds something already: give an empty place" in refused(home, address)
    (tmp_path / "full" / "1").mkdir(parents=True)
    (tmp_path / "full" / "1" / "data").touch()
    assert "holds something already" in refused(home, str(tmp_path / "full"))
    choose(home, f"s3://{store.bucket}/ful")


def test_artifacts_stay_in_sight(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    artifact = home.own_artifacts / "1" / "run" / "artifacts" / "history.csv"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    assert "would be out of sight" in refused(home, store.address)
    artifact.unlink()
    choose(home, store.address)
    key = "some/where/1/run/artifacts/history.csv"
    store.client().put_object(Bucket=store.bucket, Key=key, Body=b"")
    assert "would be out of sight" in refused(home, str(tmp_path / "another"))
    with store.away():
        assert "mend that, or give another" in refused(home, str(tmp_path / "another"))


def test_an_endpoint_that_is_no_address_is_one_line(
    home: Home, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(home, store.address)
    for name in ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):  # the first is boto3's alone
        monkeypatch.setenv(name, "localhost:9000")
        s3_artifact_repo._cached_get_s3_client.cache_clear()
        assert "Invalid endpoint: localhost:9000" in refused(home, str(tmp_path / "another"))
    assert "Invalid endpoint: localhost:9000" in refused(home, f"s3://{store.bucket}/other")


def test_doctor_looks_and_changes_nothing(home: Home, store: ObjectStore) -> None:
    choose(home, store.address)
    before = Counter(store.happened)
    assert artifacts_elsewhere(home).state is State.OK
    assert {method for method, _ in (store.happened - before)} <= {"GET", "HEAD"}
    with store.away():
        finding = artifacts_elsewhere(home)
    assert finding.state is State.FAILED
    assert "the home's artifacts are kept there" in str(finding)
    store.client().delete_object(Bucket=store.bucket, Key=MARK)
    assert "is missing there" in artifacts_elsewhere(home).found


def test_credentials_are_the_servers_alone(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    added = server_environment(ObjectPath(store.address))
    assert added == {"MLFLOW_S3_IGNORE_TLS": "true", "AWS_RETRY_MODE": "standard"}
    assert server_environment(tmp_path) == {}
    assert not [name for name in environment(Slot(0, None, 1)) if name.startswith("AWS_")]
    assert SECRET not in concealed(f"rejected: {SECRET}")


def test_mlflow_is_led_to_no_other_store(
    home: Home, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an endpoint of its own, which neither mark nor removal go by."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "differs from AWS_ENDPOINT_URL: say in the latter alone" in refused(home, store.address)
    endpoint = store.environment["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    choose(home, store.address)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(UserError, match=r"differs from AWS_ENDPOINT_URL"):
        ensure_server(home)
    assert artifacts_elsewhere(home).state is State.FAILED
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)  # comes before the other
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    require_ours(home)


# A folder that is not mounted


@pytest.fixture
def place(home: Home, tmp_path: Path) -> Path:
    """A folder of the home's artifacts on another disk."""
    place = tmp_path / "disk" / "artifacts"
    choose(home, str(place))
    return place


@contextmanager
def unmounted(place: Path) -> Iterator[None]:
    """Only the folder that a disk is mounted in is there."""
    disk, away = place.parent, place.parent.with_name("away")
    disk.rename(away)
    place.mkdir(parents=True)
    yield
    place.rmdir()
    disk.rmdir()
    away.rename(disk)


def test_it_is_not_served_empty(home: Home, place: Path) -> None:
    with unmounted(place):
        for given in (None, str(place)):
            with pytest.raises(UserError, match="mount the folder"):
                ensure_server(home, artifacts=given)
        assert find_server(home) is None
        assert not home.server_log.exists()


def test_a_deletion_waits_until_it_is_mounted(home: Home, place: Path) -> None:
    """What lies there would stay, and nobody would know of it any more."""
    ledger = Ledger(home.optuna_db)
    study = ledger.create(record())
    uri = database_of(home)
    client = MlflowClient(uri, uri)
    id_ = client.create_experiment("mine", place.as_uri())
    run = client.create_run(id_, tags={STUDY_TAG: study.record.uid}).info.run_id
    artifact = place / id_ / run / "artifacts" / "history.csv"
    artifact.parent.mkdir(parents=True)
    artifact.touch()
    home.trial_folder("mine", 0).mkdir(parents=True)
    asked = Deletion("mine", home, keep_runs=False)
    with unmounted(place):
        with pytest.raises(UserError, match="mount the folder"):
            Deletion("mine", home, keep_runs=False)
        with pytest.raises(UserError, match="mount the folder"):
            asked.carry_out()
        with pytest.raises(UserError, match="mount the folder"):
            StudyRecords(uri, study.record, None).remove(home)
    assert ledger.names() == ["mine"]
    assert home.trial_folder("mine", 0).is_dir()
    assert [found.info.run_id for found in client.search_runs([id_])] == [run]
    asked.carry_out()
    assert [path.name for path in place.iterdir()] == ["adarelu-sweep.home"]
    assert ledger.names() == []


# The server


@pytest.fixture
def command(tmp_path: Path, object_store: ObjectStore) -> Iterator[Command]:
    command = Command(tmp_path / "home", **object_store.environment)
    yield command
    command.close()


@pytest.mark.long
def test_a_server_keeps_artifacts_there_from_then_on(
    command: Command, object_store: ObjectStore, tmp_path: Path
) -> None:
    url = command.succeed("server", "start", "--artifacts", object_store.address).strip()
    client = MlflowClient(url)  # of this process, which has no credentials
    experiment = client.create_experiment("mine")
    for name in ("one", "two"):
        # MLflow's client keeps a run's address; the next server may be at another.
        client.log_text(client.create_run(experiment).info.run_id, name, f"{name}.txt")
        done = command.run("server", "start", "--artifacts", str(tmp_path / "elsewhere"))
        assert done.returncode == 2
        assert "is already up at" in done.stderr
        command.succeed("server", "stop")
        if name == "one":
            done = command.run("server", "start", "--artifacts", str(tmp_path / "elsewhere"))
            assert done.returncode == 2
            assert "would be out of sight" in done.stderr
            client = MlflowClient(command.succeed("server", "start").strip())
    found = {key.rpartition("/")[2]: body for key, body in object_store.contents().items()}
    assert found.pop("adarelu-sweep.home")
    assert found == {"one.txt": b"one", "two.txt": b"two"}
    assert list((command.home / "artifacts").iterdir()) == []


@pytest.mark.longest
def test_whatever_becomes_of_the_store_artifacts_are_there_whole_and_once(
    command: Command, object_store: ObjectStore, tmp_path: Path
) -> None:
    study = tmp_path / "small.toml"
    study.write_text(STUDY)
    command.succeed("server", "start", "--artifacts", object_store.address)
    faults = [
        Fault("hang", next=1, methods=["PUT"], keys="confusion_matrix"),
        Fault("cut request", 0.1, methods=["PUT"]),
        Fault("error", 0.1),
        Fault("busy", 0.05),
        Fault("cut answer", 0.05),
    ]
    with object_store.failing(*faults):
        done = command.run("launch", study)
    assert done.returncode == 0, done.stderr
    for fate in ("hang", "cut request", "error", "busy", "cut answer"):
        assert any(each == fate for _, each in object_store.happened), f"never: {fate}"
    command.succeed("resume", "small")  # what was given up, and nothing anew
    _compare(object_store, Home(command.home), command.succeed("server", "status"))
    said = [path.read_bytes() for path in command.home.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in text for text in [*said, done.stderr.encode()])
    with object_store.away():
        done = command.run("delete", "small", "--yes")
        assert done.returncode == 2
        assert "does not answer as it should" in done.stderr
    command.succeed("delete", "small", "--yes")
    assert set(object_store.contents()) == {MARK}
    assert object_store.half_uploads() == []


def _compare(store: ObjectStore, home: Home, status: str) -> None:
    """Compare what is in the store with what the home has."""
    address = re.match(r"\S+", status)
    assert address
    client = MlflowClient(address[0])
    experiment = client.get_experiment_by_name("small")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    kinds = Counter(run.data.tags["adarelu_sweep.kind"] for run in runs)
    assert kinds == {"study": 1, "trial": 4, "arm": 2}
    stored = {key.removeprefix("some/where/"): body for key, body in store.contents().items()}
    del stored["adarelu-sweep.home"]
    of_trials = []
    for run in runs:
        root = f"{experiment.experiment_id}/{run.info.run_id}/artifacts/"
        found = {key.removeprefix(root): stored.pop(key) for key in list(stored) if root in key}
        assert run.info.status == "FINISHED"
        match run.data.tags["adarelu_sweep.kind"]:
            case "trial":
                assert steps(client, run.info.run_id) == [1, 2, 3]
                folder = home.trial_folder("small", int(run.data.tags["optuna.trial_number"]))
                for name in ("model/model.safetensors", "confusion_matrix.csv"):
                    assert found[name] == (folder / Path(name).name).read_bytes()
                assert len(found["history.csv"].splitlines()) == 1 + 3
                of_trials.append(sorted(found))
            case "study":
                assert found.pop("study.toml") == STUDY.encode()
                report = home.report_folder("small")
                files = [path for path in report.rglob("*") if path.is_file()]
                assert len(files) > 5
                for path in files:
                    name = f"report/{path.relative_to(report)}"
                    assert found[name] == path.read_bytes(), name
    assert of_trials == [of_trials[0]] * 4
    assert not stored, "of no run"
