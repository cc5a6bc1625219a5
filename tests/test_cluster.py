"""Slots on the nodes of a cluster: how they are divided, and a sweep while they come and go."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Gone, Offer, Placed, Slot
from adarelu_sweep.launching.messages import Task
from adarelu_sweep.launching.nodes import ClusterSlots, Division, Node
from adarelu_sweep.launching.ray_cluster import RayCluster
from adarelu_sweep.launching.ray_host import Host
from adarelu_sweep.storing.places import credentials_for
from adarelu_sweep.supervising import crew
from adarelu_sweep.supervising.supervisor import Signalled
from tests.scripted import ScriptedWorker, Stage, begin, finish, finishing, wanting_memory
from tests.sweeps import STUDY, Command
from tests.test_ledger import record

SMALL, LARGE = Node("s", "small", 4), Node("l", "large", 10)
HEAD = Node("h", "head", 0)
TWO_GPUS, ONE_GPU = Node("g", "two", 8, 2), Node("o", "one", 16, 1)


def divide(
    *nodes: Node,
    gpus: str | None = None,
    share: float = 1.0,
    most: int | None = None,
    threads: int | None = None,
) -> tuple[Division, list[int]]:
    """How nodes are divided, and how many slots each has then."""
    division = Division.of(nodes, gpus, share, most, threads)
    slots = ClusterSlots(division).update(nodes)
    return division, [sum(slot.node == node.id for slot in slots) for node in nodes]


def test_nodes_without_gpus_are_divided_by_their_cpus() -> None:
    assert divide(HEAD, SMALL, LARGE) == (Division(4), [0, 1, 2])
    assert divide(SMALL, LARGE, most=4) == (Division(3, most=4), [1, 3])
    assert divide(SMALL, LARGE, most=2) == (Division(5, most=2), [0, 2])
    assert divide(SMALL, LARGE, most=99) == (Division(1, most=99), [4, 10])
    assert divide(SMALL, LARGE, most=4, threads=1) == (Division(1, most=4), [2, 2])  # spread
    assert divide(SMALL, LARGE, threads=5) == (Division(5), [0, 2])
    assert divide(SMALL, TWO_GPUS, gpus="none") == (Division(4), [1, 2])


def test_nodes_with_gpus_are_divided_by_those() -> None:
    assert divide(HEAD, SMALL, TWO_GPUS, ONE_GPU) == (Division(4, 1.0), [0, 0, 2, 1])
    assert divide(TWO_GPUS, ONE_GPU, share=0.5) == (Division(2, 0.5), [4, 2])
    assert divide(ONE_GPU, share=0.33, gpus="all") == (Division(5, 0.33), [3])
    assert divide(ONE_GPU, share=0.6) == (Division(16, 0.6), [1])
    assert divide(Node("p", "poor", 1, 4)) == (Division(1, 1.0), [4])
    assert divide(SMALL, gpus="all", threads=2) == (Division(2, 1.0), [0])  # until one comes


def test_slots_share_a_device_where_their_workers_share_memory() -> None:
    def devices(node: Node, share: float | None) -> int:
        slots = ClusterSlots(Division(1, share)).update([node])
        return len({slot.device for slot in slots})

    assert devices(SMALL, None) == 1
    assert devices(TWO_GPUS, 1.0) == 2
    assert devices(ONE_GPU, 0.25) == 1


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"gpus": "0,1"}, "--gpus 0,1: on a cluster Ray chooses the GPUs"),
        ({"gpus": "all"}, "no node of the cluster has a GPU"),
        ({"share": 0.0}, "--gpus-per-worker 0: "),
        ({"share": 2.0}, "--gpus-per-worker 2: "),
        ({"most": 0}, "--workers 0: give 1 or more"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(request_: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        divide(SMALL, **request_)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the cluster has no CPU to give"):
        divide(HEAD)


def test_a_slot_keeps_its_index_while_its_node_is_there_and_none_comes_again() -> None:
    cluster = ClusterSlots(Division(4, most=3))

    def update(*nodes: Node) -> dict[int, str]:
        slots = cluster.update(nodes)
        assert cluster.current == slots
        return {slot.index: slot.node for slot in slots}

    assert update(SMALL) == {0: "s"}
    assert update(LARGE, SMALL) == {0: "s", 1: "l", 2: "l"}
    assert update(LARGE) == {1: "l", 2: "l"}
    assert update(SMALL, LARGE) == {1: "l", 2: "l", 3: "s"}
    assert update() == {}
    assert update(LARGE) == {4: "l", 5: "l"}


# A supervisor over workers that follow a script


class Cloud(Stage):
    """Slots that come and go; ``GPU-x`` at the index of its place in ``parts``."""

    offers = True

    def slot(self, device: str) -> Slot:
        return Slot(list(self.parts).index(device), 1, device, device)

    def offer(self, *devices: str) -> None:
        self.inbox.put(Offer([self.slot(device) for device in devices]))

    def later(self, seconds: float, *devices: str) -> None:
        Timer(seconds, self.offer, devices).start()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Callable[[int], Cloud]]:
    made: list[Cloud] = []

    def make(seeds: int) -> Cloud:
        made.append(Cloud(tmp_path, record(seeds=seeds)))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_slots_that_come_are_used_and_those_that_go_are_not(
    cloud: Callable[[int], Cloud],
) -> None:
    sweep = cloud(2)
    trials = sweep.agenda.left()

    def lose_the_node(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        sweep.offer("GPU-b")
        worker.end("was lost with its node")

    sweep.parts = {"GPU-a": [lose_the_node], "GPU-b": [finishing(0.1)]}
    assert sweep.run().state == "complete"
    assert sweep.agenda.counts().complete == trials
    assert sweep.started.count("GPU-a") == 1
    assert any("slot 0 (GPU-a) is gone" in line for line in sweep.display.said)
    assert sum(job.trial.losses for job in sweep.agenda.jobs()) == 1


def test_without_any_slot_a_sweep_waits_for_one(cloud: Callable[[int], Cloud]) -> None:
    sweep = cloud(1)

    def lose_the_node(worker: ScriptedWorker, task: Task) -> None:
        sweep.offer()
        worker.end("was lost with its node")
        sweep.later(1.5, "GPU-b")

    sweep.parts = {"GPU-a": [lose_the_node], "GPU-b": [finishing()]}
    assert sweep.run(first=["GPU-a"]).state == "complete"
    assert any("there is no slot: waiting" in line for line in sweep.display.said)
    assert any("slot 1 (GPU-b) has come" in line for line in sweep.display.said)


def test_a_sweep_that_waits_for_slots_can_be_stopped(cloud: Callable[[int], Cloud]) -> None:
    sweep = cloud(1)
    sweep.parts = {}
    Timer(1.0, sweep.inbox.put, [Signalled(2)]).start()
    began = time.monotonic()
    assert sweep.run().state == "interrupted"
    assert time.monotonic() - began < 5


def test_a_device_that_a_trial_was_to_have_alone_may_go(cloud: Callable[[int], Cloud]) -> None:
    sweep = cloud(1)

    def lose_the_node(worker: ScriptedWorker, task: Task) -> None:
        sweep.offer("GPU-b")
        worker.end("was lost with its node")

    sweep.parts = {"GPU-a": [wanting_memory(), lose_the_node], "GPU-b": [finishing(0.3)]}
    trials = sweep.agenda.left()
    assert sweep.run().state == "complete"
    assert sweep.agenda.counts().complete == trials


class Waiting(ScriptedWorker):
    """Has no place, and says nothing until it has one."""

    placed = False

    def say(self, message: object) -> None:
        if self.placed:
            super().say(message)  # type: ignore[arg-type]

    def place(self) -> None:
        self.placed = True
        self._stage.inbox.put(Placed(self))
        self.say(self.ready())


def test_a_worker_that_waits_for_a_place_is_neither_slow_nor_waited_for(
    cloud: Callable[[int], Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_START_PATIENCE", 0.5)
    sweep = cloud(2)
    trials = sweep.agenda.left()
    made: list[Waiting] = []
    start = sweep.start

    def start_waiting(slot: Slot) -> ScriptedWorker:
        if slot.device == "GPU-a":
            return start(slot)
        sweep.started.append(slot.device)
        made.append(Waiting(sweep, slot, finish))
        return made[-1]

    monkeypatch.setattr(sweep, "start", start_waiting)
    sweep.parts = {"GPU-a": [finishing(0.7)], "GPU-b": [finish], "GPU-c": [finish]}
    Timer(1.2, lambda: made[0].place()).start()
    assert sweep.run(stall_timeout=0.5 + 0.5).state == "complete"
    assert sweep.agenda.counts().complete == trials
    assert len(made) == 2  # neither was replaced, for all the time that they took
    assert {worker.slot.device for worker in made} == {"GPU-b", "GPU-c"}


def test_a_worker_that_never_had_a_place_is_no_failed_start(
    cloud: Callable[[int], Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = cloud(1)
    start = sweep.start

    def start_nowhere(slot: Slot) -> ScriptedWorker:
        if slot.device == "GPU-a":
            return start(slot)
        worker = Waiting(sweep, slot, finish)
        Timer(0.05, sweep.inbox.put, [Gone(worker, "was lost with its node")]).start()
        return worker

    monkeypatch.setattr(sweep, "start", start_nowhere)
    sweep.parts = {"GPU-a": [finishing(0.5)], "GPU-b": [finish]}
    assert sweep.run().state == "complete"
    assert not any("is given up" in line for line in sweep.display.said)


# The connection


def test_an_address_where_no_cluster_answers_is_one_line_and_no_wait() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    pytest.importorskip("ray", reason="Ray is not installed")
    for given in (address, "ray://127.0.0.1:10001", "somewhere"):
        with pytest.raises(UserError, match=f"--ray-address {given}: ") as refused:
            RayCluster(given)
        assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 10


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'adarelu-sweep\[ray\]'"):
        RayCluster()


def test_a_node_without_what_a_store_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a trial is given to it, which would fail there."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    here = socket.gethostname()
    said = rf"s3fs, .* is not installed on {here}: pip install 'adarelu-sweep\[s3\]' there$"
    with pytest.raises(RuntimeError, match=said):
        Host(Slot(0, 1), str(tmp_path / "log"), str(tmp_path), {}, credentials_for("s3://bucket"))


def test_options_of_ray_without_it_are_refused(tmp_path: Path) -> None:
    study = tmp_path / "small.toml"
    study.write_text(STUDY)
    refused = Command(tmp_path / "home").run("launch", study, "--gpus-per-worker", "0.5")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "Error: --ray-address and --gpus-per-worker need --launcher ray\n"
