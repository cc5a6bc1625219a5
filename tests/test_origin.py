"""Data sets that lie elsewhere, in a store or in a folder on a network, and their copies here."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from adarelu_sweep.datasets import origin as origins
from adarelu_sweep.datasets.catalog import BUILT_IN
from adarelu_sweep.datasets.download import download
from adarelu_sweep.datasets.idx import NAMES
from adarelu_sweep.datasets.origin import CACHE, Origin, at_hand, brought, known, provide, where
from adarelu_sweep.datasets.prepared import load
from adarelu_sweep.datasets.sources import check, read
from adarelu_sweep.diagnosing.data import data_sets
from adarelu_sweep.diagnosing.finding import State
from adarelu_sweep.diagnosing.places import data_origin
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.messages import Finished, FromWorker, Interrupted, Note, Task
from adarelu_sweep.launching.tasks import TaskRunner
from adarelu_sweep.storing.objects import ObjectPath, StorageError
from adarelu_sweep.storing.places import discard, place_at, write_whole
from tests.object_store import Fault, ObjectStore
from tests.test_datasets import Mirror, idx_bytes, mirror, same, small_cifar, some
from tests.test_tasks import Supervisor, pack
from tests.waiting import wait_until

__all__ = ["mirror", "small_cifar"]  # fixtures


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process takes for one of another machine."""
    folder = tmp_path / "network"
    folder.mkdir()
    parts = [SimpleNamespace(mountpoint=str(folder), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    return folder


@pytest.fixture
def store(reached: ObjectStore) -> Origin:
    return place_at(reached.address)


@pytest.fixture(params=["network", "store"])
def origin(request: pytest.FixtureRequest) -> Origin:
    found: Origin = request.getfixturevalue(request.param)
    return found


def put(origin: Origin, name: str = "own.npz", **parts: Any) -> dict[str, Any]:
    """Put a data set there as a file of numpy's."""
    parts = parts or some()
    with origins.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "file.npz", **parts)
        write_whole(origin / name, (Path(folder) / "file.npz").read_bytes())
    return parts


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def asked_for(store: ObjectStore, name: str) -> int:
    """How often the content of a file was asked for."""
    return sum(asked.startswith("GET") and asked.endswith(name) for asked, _ in store.proxy.seen)


# What there is


def test_a_data_set_is_copied_whole_and_read_from_there(origin: Origin, cache: Path) -> None:
    parts = put(origin)
    folder = at_hand("own", origin)
    assert cache in folder.parents
    assert same(read("own", folder), parts)
    assert files_in(folder) == [".own.copy.lock", ".own.origin", "own.npz"]
    load("own", folder)
    assert (folder / "prepared" / "own.safetensors").exists()


def test_a_copy_is_made_again_only_where_the_original_is_another(origin: Origin) -> None:
    put(origin)
    first = (at_hand("own", origin) / "own.npz").stat()
    assert (at_hand("own", origin) / "own.npz").stat() == first
    time.sleep(0.01)  # a clock's tick
    parts = put(origin, **some(train=9))
    assert same(read("own", at_hand("own", origin)), parts)
    for damage in (lambda file: file.write_bytes(b"PK"), Path.unlink):
        damage(at_hand("own", origin) / "own.npz")
        assert same(read("own", at_hand("own", origin)), parts)


def test_what_comes_first_there_is_what_is_read(origin: Origin) -> None:
    packed = some(shape=(6, 7))
    raw = origin / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for key, name in NAMES.items():
        write_whole(raw / name, idx_bytes(packed[key]))
    assert same(read("mnist", at_hand("mnist", origin)), packed)
    first = put(origin, "mnist.npz", **some(train=3, shape=(6, 7)))
    assert same(read("mnist", folder := at_hand("mnist", origin)), first)
    assert not [path for path in files_in(folder) if path.startswith("MNIST")]
    discard(origin / "mnist.npz")
    assert same(read("mnist", at_hand("mnist", origin)), packed)
    assert not (folder / "mnist.npz").exists()


def test_what_is_built_in_needs_no_original(origin: Origin) -> None:
    assert check("digits", at_hand("digits", origin)).where == "built in"
    own = put(origin, "digits.npz")
    assert same(read("digits", at_hand("digits", origin)), own)
    discard(origin / "digits.npz")
    assert check("digits", at_hand("digits", origin)).where == "built in"


def test_an_archive_is_made_what_is_read(
    tmp_path: Path, store: Origin, small_cifar: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = BUILT_IN["cifar100"].archive
    content = (tmp_path / name).read_bytes()
    monkeypatch.setattr(origins, "fetch", download)  # in this process, which knows its MD5
    write_whole(store / name, content[:-1])
    with pytest.raises(UserError, match=f"{store}/{name} does not have the published MD5"):
        brought(["cifar100"], store)
    write_whole(store / name, content)
    folder = brought(["cifar100"], store)
    assert same(read("cifar100", folder), small_cifar)
    assert files_in(folder) == [".cifar100.copy.lock", ".cifar100.origin", "cifar100.npz"]


def test_a_folder_of_this_machine_is_its_own(tmp_path: Path, cache: Path) -> None:
    put(tmp_path)
    assert at_hand("own", tmp_path) == brought(["own"], tmp_path) == tmp_path
    assert not cache.exists()


# What is not there, or cannot be used


def test_what_is_not_there_is_named_with_its_place(store: Origin) -> None:
    for name in ("own", "cifar10"):
        with pytest.raises(UserError, match=f"no data set '{name}' in {store}: put") as raised:
            brought([name], store)
        assert "\n" not in str(raised.value)
        assert ("data fetch" in str(raised.value)) == (name in BUILT_IN)
        with pytest.raises(UserError, match=f"no data set '{name}' in"):
            at_hand(name, store)
    with pytest.raises(UserError, match="not a name"):
        at_hand("../own", store)


def test_a_damaged_original_is_named_and_not_kept(store: Origin, cache: Path) -> None:
    good = put(store)
    folder = brought(["own"], store)
    put(store, **{**some(), "x_train": np.zeros(3)})
    with pytest.raises(UserError, match=f"x_train in {store}/own.npz holds float64, not uint8"):
        brought(["own"], store)
    assert same(read("own", folder), good)
    assert not [name for name in files_in(cache) if "aside" in name]


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin)
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    if isinstance(origin, Path):  # it is read itself
        assert at_hand("own", origin) == origin
    else:
        with pytest.raises(UserError, match=rf"choose another folder with {CACHE}"):
            brought(["own"], origin)


def test_a_full_disk_may_pass(store: Origin, cache: Path) -> None:
    parts = put(store, **some(train=900))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageError, match=r"own cannot be copied to .* now \(File too large"):
            at_hand("own", store)
        with pytest.raises(UserError, match="File too large"):
            brought(["own"], store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(cache) == [f"data/{at_hand('own', store).name}/.own.copy.lock"]
    assert same(read("own", at_hand("own", store)), parts)


# A store in trouble


SLOW = pytest.mark.long  # the clients wait longer and longer before they try again


@pytest.mark.parametrize("fate", ["error", pytest.param("cut answer", marks=SLOW)])
def test_trouble_that_passes_is_not_noticed(store: Origin, reached: ObjectStore, fate: Any) -> None:
    parts = put(store)
    with reached.failing(Fault(fate, next=1, methods=("GET",), keys="own")):
        assert same(read("own", at_hand("own", store)), parts)
    assert reached.happened["GET", fate] == 1


@SLOW
def test_a_store_that_fails_in_the_middle_leaves_the_copy_that_was(
    store: Origin, reached: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "_BLOCK", 2**18)
    first = put(store)
    folder = at_hand("own", store)
    second = put(store, **some(train=12_000))
    blocks = []

    def fail_from_now_on() -> None:
        blocks.append(len(blocks))
        reached.faults = [Fault("cut answer", methods=("GET",))]

    with pytest.raises(StorageError, match="does not answer as it should"):
        at_hand("own", store, fail_from_now_on)
    assert blocks
    assert same(read("own", folder), first)
    assert not [name for name in files_in(folder) if "aside" in name]
    reached.faults = []
    assert same(read("own", at_hand("own", store)), second)


def test_an_original_that_changes_meanwhile_is_not_mixed(
    store: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "_BLOCK", 2**18)
    put(store, **some(train=12_000))
    changed: list[dict[str, Any]] = []

    def change() -> None:
        if not changed:
            changed.append(put(store, **some(train=11_000)))

    with pytest.raises(StorageError):
        at_hand("own", store, change)
    assert same(read("own", at_hand("own", store)), changed[0])


def test_a_store_that_is_away_is_not_an_empty_one(store: Origin, reached: ObjectStore) -> None:
    put(store)
    at_hand("own", store)
    with reached.away():
        with pytest.raises(StorageError, match="does not answer"):
            at_hand("own", store)
        for ask in (
            lambda: brought(["own"], store),
            lambda: where("own", store),
            lambda: known(store),
            lambda: provide("mnist", store),
        ):
            with pytest.raises(UserError, match="no data sets can be had from there") as raised:
                ask()
            assert "\n" not in str(raised.value)


# Several at once


FETCH = """
import sys
from adarelu_sweep.datasets.origin import at_hand
from adarelu_sweep.storing.places import place_at
print(at_hand("own", place_at(sys.argv[1])))
"""


def fetching(origin: Origin) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FETCH, str(origin)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_at_once_fetch_once(store: Origin, reached: ObjectStore) -> None:
    parts = put(store)
    with reached.failing(Fault("slow", methods=("GET",))):
        processes = [fetching(store) for _ in range(3)]
        (folder,) = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert same(read("own", Path(folder)), parts)
    assert asked_for(reached, "own.npz") == 1


def test_whoever_is_killed_in_the_middle_is_in_nobodys_way(
    store: Origin, reached: ObjectStore, cache: Path
) -> None:
    parts = put(store)
    with reached.failing(Fault("hang", methods=("GET",), keys=r"own\.npz")):
        process = fetching(store)
        wait_until(lambda: reached.happened["GET", "hang"], "a request that hangs")
        process.kill()
        process.communicate()
    assert [name for name in files_in(cache) if "aside" in name]
    assert same(read("own", folder := at_hand("own", store)), parts)
    assert files_in(folder) == [".own.copy.lock", ".own.origin", "own.npz"]


class AskedError(Exception):
    """Stands for a request to stop."""


def asked() -> None:
    raise AskedError


def test_a_stop_is_heard_while_another_copies_and_in_the_middle(store: Origin) -> None:
    put(store)
    folder = at_hand("own", store)
    put(store, **some(train=9))
    with FileLock(folder / ".own.copy.lock"), pytest.raises(AskedError):
        at_hand("own", store, asked)
    with pytest.raises(AskedError):
        at_hand("own", store, asked)
    assert check("own", at_hand("own", store)).num_train == 9


# A worker


def own_task(folder: Path, origin: Origin) -> Task:
    task = pack(folder, 1)
    (order,) = task.trials
    order = order.model_copy(
        update={"settings": order.settings.model_copy(update={"dataset": "own"})}
    )
    return task.model_copy(update={"trials": [order], "data_origin": str(origin)})


@SLOW
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_waits_for_its_data_set_until_it_is_there_or_it_is_asked_to_stop(
    tmp_path: Path, store: Origin, reached: ObjectStore, stopped: bool
) -> None:
    put(store, **some(train=60, test=40, shape=(8, 8)))

    def hears(message: FromWorker) -> bool:
        if isinstance(message, Note) and not stopped:
            reached.proxy.open()
        return isinstance(message, Note) and stopped

    supervisor = Supervisor(hears)
    reached.proxy.close()
    try:
        TaskRunner(torch.device("cpu")).run(own_task(tmp_path, store), supervisor)
    finally:
        if stopped:
            reached.proxy.open()
    notes = [message.text for message in supervisor.heard if isinstance(message, Note)]
    assert len(notes) == 1
    assert notes[0].startswith(f"it waits for its data set ({store}")
    assert supervisor.of(Interrupted if stopped else Finished) == [1]


# Commands


def test_where_data_sets_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    assert home.data_origin(None) == tmp_path / "data"
    monkeypatch.setenv("ADARELU_SWEEP_DATA", "s3://bucket/data/")
    assert home.data_origin(None) == ObjectPath("s3://bucket/data")
    assert home.data_origin(None, str(tmp_path)) == tmp_path
    assert home.data_origin("here", str(tmp_path)) == Path.cwd() / "here"
    with pytest.raises(UserError, match="give s3://BUCKET/PREFIX"):
        home.data_origin("gs://bucket/data")


def test_what_a_store_has_is_told_without_a_copy(
    store: Origin, reached: ObjectStore, cache: Path
) -> None:
    put(store)
    put(store, "mnist.npz")
    assert known(store) == [*BUILT_IN, "own"]
    assert where("own", store) == f"{store}/own.npz"
    assert where("digits", store) == "built in"
    assert where("cifar10", store) is None
    found = {finding.name: finding for finding in data_sets(store)}
    assert [found[name].state for name in ("own", "mnist")] == [State.OK] * 2
    assert found["cifar10"].state is State.ABSENT
    assert f"data fetch cifar10 --data-dir {store}" in str(found["cifar10"])
    assert data_origin(store).state is State.OK
    assert asked_for(reached, "own.npz") == 0
    assert not cache.exists()


@SLOW
def test_a_download_is_put_into_the_store(
    tmp_path: Path, store: Origin, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'adarelu_sweep.datasets.download' in sys.orig_argv:\n"
        "    from torchvision.datasets import MNIST\n"
        f"    MNIST.mirrors = ['{mirror.address}/any/']\n"
        f"    MNIST.resources = {mirror.resources!r}\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    assert provide("mnist", store) == f"{store}/mnist.npz"
    assert {file for _, file in mirror.requests} == {file for file, _ in mirror.resources}
    mirror.requests.clear()
    assert provide("mnist", store) == f"{store}/mnist.npz"
    assert mirror.requests == []
    assert same(read("mnist", brought(["mnist"], store)), mirror.parts)
    (mirror.files / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    discard(store / "mnist.npz")
    with pytest.raises(UserError, match=f"put by hand into {store} either"):
        provide("mnist", store)
    with pytest.raises(UserError, match="no data set 'own' in"):
        provide("own", store)
