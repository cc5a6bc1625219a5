"""Whole studies on a Ray cluster of several nodes, which are killed, come late or are busy."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from adarelu_sweep.datasets.npz import save
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.launching.launcher import Event, Gone, Offer, Placed, Said
from adarelu_sweep.launching.messages import Quit, Ready
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.storing.places import place_at, write_whole
from tests.chaos.books import Books, differences
from tests.object_store import ObjectStore
from tests.ray_clusters import Nodes, ray_cluster
from tests.sweeps import STUDY, Command, Sweep
from tests.test_launcher import WORKER, ends

pytestmark = pytest.mark.long

EPOCHS = 20
PATIENCE = 120.0  # seconds
# The actor may be known to be dead before its node is.
LOST = re.compile(r"was lost with its (node \(.*\)|Ray actor)")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_cluster() as nodes:
        yield nodes


@pytest.fixture
def three(nodes: Nodes) -> Iterator[list[Any]]:
    """Three nodes of a core each."""
    added = [nodes.add() for _ in range(3)]
    yield added
    for node in added:
        nodes.kill(node)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(tmp_path_factory.mktemp("ray") / "home")
    yield command
    command.close()


@pytest.fixture(scope="module")
def study_file(home: Command) -> Path:
    path = home.home.parent / "study.toml"
    path.write_text(STUDY.replace("epochs = 3", f"epochs = {EPOCHS}"))
    return path


@pytest.fixture(scope="module")
def undisturbed(home: Command, study_file: Path) -> Books:
    """The study, run by processes of this machine, with a thread each as on the nodes."""
    workers = str(available_cores())
    home.succeed("launch", study_file, "--name", "local", "--gpus", "none", "--workers", workers)
    return Books(home.home, "local")


@pytest.fixture
def launch(home: Command, study_file: Path, nodes: Nodes) -> Callable[..., Sweep]:
    def launch(name: str, *options: str) -> Sweep:
        options += ("--launcher", "ray", "--ray-address", nodes.address)
        return Sweep(home.start("launch", study_file, "--name", name, *options))

    return launch


def cmdline(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def our_workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if WORKER[1] in cmdline(child)]


def test_a_study_whose_node_dies_ends_with_the_numbers_of_one_machine(
    home: Command,
    undisturbed: Books,
    nodes: Nodes,
    three: list[Any],
    launch: Callable[..., Sweep],
) -> None:
    sweep = launch("dies")
    sweep.until(r"started", times=3)
    sweep.until(r"epoch 2/", times=3)
    nodes.kill(three.pop())
    assert sweep.ends() == 0, sweep.said
    assert LOST.search(sweep.said), sweep.said
    assert "; it goes on in another" in sweep.said
    assert re.search(r"slot \d \(.*\) is gone with its node", sweep.said)
    assert "resumed after epoch" in sweep.said
    books = Books(home.home, "dies")
    assert sum(trial.optuna.user_attrs.get("losses", 0) for trial in books.trials) == 1
    assert differences(books, undisturbed) == []
    assert our_workers() == []


def test_nodes_that_share_nothing_but_a_store_end_with_the_same_numbers(
    home: Command,
    undisturbed: Books,
    nodes: Nodes,
    object_store: ObjectStore,
    launch: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its workers have the store's credentials from their nodes; one of these dies."""
    surroundings = {**object_store.environment, "ADARELU_SWEEP_CACHE": str(tmp_path / "cache")}
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(home, "environment", home.environment | surroundings)
    save(read("digits", tmp_path), tmp_path / "digits.npz")  # the same images, but from a file
    data = f"{object_store.address}/data"
    write_whole(place_at(data) / "digits.npz", (tmp_path / "digits.npz").read_bytes())
    places = ("--data-dir", data, "--set", f"execution.checkpoints={object_store.address}")
    added = [nodes.add() for _ in range(2)]
    try:
        sweep = launch("stored", *places)
        sweep.until(r"epoch 2/", times=2)
        nodes.kill(added.pop())
        assert sweep.ends() == 0, sweep.said
        assert "resumed after epoch" in sweep.said
        books = Books(home.home, "stored")
        assert differences(books, undisturbed) == []
        assert len(object_store.contents()) == 3 * len(books.trials) + 2  # mark and data
    finally:
        for node in added:
            nodes.kill(node)


def test_a_supervisor_that_dies_leaves_nobody_and_resume_goes_on(
    home: Command,
    undisturbed: Books,
    nodes: Nodes,
    three: list[Any],
    launch: Callable[..., Sweep],
) -> None:
    sweep = launch("orphaned", "--workers", "2")
    sweep.until(r"epoch 2/", times=2)
    pids = [worker.pid for worker in our_workers()]
    assert len(pids) == 2
    sweep.process.kill()
    assert all(map(ends, pids))
    resumed = Sweep(home.start("resume", "orphaned"))  # on the cluster of the launch
    resumed.until(r"slot \d: .* started, resumed after epoch", times=2)
    assert len(our_workers()) == 2
    assert resumed.ends() == 0, resumed.said
    assert differences(Books(home.home, "orphaned"), undisturbed) == []
    assert our_workers() == []


def test_a_node_that_comes_late_takes_part_and_ctrl_c_stops(
    home: Command, nodes: Nodes, launch: Callable[..., Sweep]
) -> None:
    first = nodes.add()
    sweep = launch("late", "--set", "training.epochs=100000")
    sweep.until(r"slot 0: .* epoch 1/")
    second = nodes.add()
    try:
        sweep.until(r"slot 1 \(.*\) has come")
        sweep.until(r"slot 1: .* epoch 1/")
        sweep.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert sweep.ends() == 130, sweep.said
        assert time.monotonic() - began < 15
        assert our_workers() == []
    finally:
        for node in (first, second):
            nodes.kill(node)


def test_workers_wait_for_a_place_and_the_slots_of_a_node_come_and_go(
    nodes: Nodes, tmp_path: Path
) -> None:
    from adarelu_sweep.launching.nodes import ClusterSlots, Division
    from adarelu_sweep.launching.ray_cluster import RayCluster
    from adarelu_sweep.launching.ray_launcher import RayLauncher

    inbox: SimpleQueue[Event] = SimpleQueue()
    launcher = RayLauncher(
        inbox.put, tmp_path / "logs", "uid", RayCluster(nodes.address), ClusterSlots(Division(1))
    )

    def hear(*kinds: type) -> Any:
        while not isinstance(event := inbox.get(timeout=PATIENCE), kinds):
            pass
        return event.message if isinstance(event, Said) else event

    try:
        node = nodes.add()
        (slot,) = hear(Offer).slots
        assert slot.node == node.node_id
        first = launcher.start(slot)
        assert isinstance(hear(Said), Ready)
        assert first.placed
        # There is room for one.
        second, third = launcher.start(slot), launcher.start(slot)
        time.sleep(2)
        assert not second.placed
        assert not third.placed
        third.send(Quit())
        gone = hear(Gone)
        assert (gone.worker, gone.in_order) == (third, True)
        first.kill()
        gone = hear(Gone)
        assert (gone.worker, gone.reason) == (first, "was killed by SIGKILL")
        assert hear(Placed) == Placed(second)
        ready = hear(Said)
        nodes.kill(node)
        gone, offer = sorted([hear(Offer, Gone), hear(Offer, Gone)], key=lambda e: str(type(e)))
        assert gone.worker is second
        assert LOST.search(gone.reason)
        assert offer == Offer([])
        assert ends(ready.pid)
    finally:
        launcher.close()


def test_a_home_that_a_node_does_not_see_is_named(nodes: Nodes, tmp_path: Path) -> None:
    from adarelu_sweep.launching.launcher import Slot
    from adarelu_sweep.launching.nodes import ClusterSlots, Division
    from adarelu_sweep.launching.ray_cluster import RayCluster
    from adarelu_sweep.launching.ray_launcher import RayLauncher

    node = nodes.add()
    inbox: SimpleQueue[Event] = SimpleQueue()
    logs = tmp_path / "logs"
    slots = ClusterSlots(Division(1, most=0))
    launcher = RayLauncher(inbox.put, logs, "uid", RayCluster(nodes.address), slots)
    try:
        worker = launcher.start(Slot(0, 1))
        logs.rmdir()  # long before the actor looks
        assert inbox.get(timeout=PATIENCE) == Placed(worker)  # so that it counts as a failed start
        gone = inbox.get(timeout=PATIENCE)
        assert isinstance(gone, Gone)
        assert "the home has to lie in a folder that all nodes share" in gone.reason
    finally:
        launcher.close()
        nodes.kill(node)


def test_what_is_left_over_is_that_of_the_same_study_in_whichever_home(
    nodes: Nodes, tmp_path: Path
) -> None:
    """Homes of two hosts may have the same path, and a study is resumed from another home."""
    from adarelu_sweep.launching.launcher import Slot
    from adarelu_sweep.launching.nodes import ClusterSlots, Division
    from adarelu_sweep.launching.ray_cluster import RayCluster
    from adarelu_sweep.launching.ray_launcher import RayLauncher

    node = nodes.add()
    inbox: SimpleQueue[Event] = SimpleQueue()

    def launcher(uid: str, home: str) -> RayLauncher:
        (tmp_path / home).mkdir(exist_ok=True)
        slots = ClusterSlots(Division(1, most=0))
        return RayLauncher(inbox.put, tmp_path / home, uid, RayCluster(nodes.address), slots)

    first = launcher("study", "home")
    try:
        first.start(Slot(0, 1))
        while not (isinstance(event := inbox.get(timeout=PATIENCE), Said)):
            pass
        assert isinstance(event.message, Ready)
        launcher("another", "home").close()
        assert psutil.pid_exists(event.message.pid)
        launcher("study", "elsewhere").close()
        assert ends(event.message.pid)
    finally:
        first.close()
        nodes.kill(node)


def test_ctrl_c_in_a_terminal_stops_ray_on_this_machine_in_order(
    home: Command, study_file: Path
) -> None:
    arguments = ("--launcher", "ray", "--ray-address", "local", "--workers", "2", "--gpus", "none")
    long = ("--name", "alone", "--set", "training.epochs=100000")
    sweep = Sweep(home.start("launch", study_file, *long, *arguments, start_new_session=True))
    sweep.until(r"slot 0: .* epoch 1/")
    below = psutil.Process(sweep.process.pid).children(recursive=True)
    lines = {child: " ".join(cmdline(child)) for child in below}
    started = [child for child, line in lines.items() if "ray" in line or WORKER[1] in line]
    assert len(started) > 4
    os.killpg(sweep.process.pid, signal.SIGINT)  # the nodes of Ray are in its group, too
    assert sweep.ends() == 130, sweep.said
    assert not LOST.search(sweep.said)
    assert "stopping after the step in hand" in sweep.said
    assert psutil.wait_procs(started, timeout=30)[1] == []
