"""GPUs and slots: what a request means on recorded machines, and how a machine is divided."""

import os
import tomllib
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.gpus import Gpu, choose_gpus, list_gpus, recorded
from adarelu_sweep.placing.machine import available_cores, available_memory
from adarelu_sweep.placing.slots import make_slots, slots_for
from adarelu_sweep.studies.reading import study_of
from adarelu_sweep.studies.schema import Study
from tests.sweeps import STUDY


def gpu(index: int, *pids: int) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08d}-1111-2222-3333-444444444444",
        name="NVIDIA A100-SXM4-40GB",
        memory_bytes=40 * 2**30,
        processes=dict.fromkeys(pids, 3 * 2**29),
    )


MACHINES = {
    "none": [],
    "one": [gpu(0)],
    "three": [gpu(0), gpu(1), gpu(2)],
    "middle_busy": [gpu(0), gpu(1, 4242), gpu(2)],
    "all_busy": [gpu(0, 17), gpu(1, 4242, 4243)],
}


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Gpu]:
    """Let a recorded machine stand in for this one."""
    gpus = MACHINES[request.param]
    path = tmp_path / "gpus.json"
    path.write_text(recorded(gpus))
    monkeypatch.setenv("ADARELU_SWEEP_GPU_LISTING", str(path))
    return gpus


def on(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("machine", [name], indirect=True)


def indices(gpus: list[Gpu]) -> list[int]:
    return [gpu.index for gpu in gpus]


# Choosing


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_a_recorded_listing_is_read_as_it_was(machine: list[Gpu]) -> None:
    assert list_gpus() == machine
    assert choose_gpus("none") == ([], [])


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [("one", [0]), ("three", [0, 1, 2]), ("middle_busy", [0, 2])],
    indirect=["machine"],
)
@pytest.mark.parametrize("request_", [None, "all"])
def test_all_are_the_free_ones(machine: list[Gpu], chosen: list[int], request_: str | None) -> None:
    gpus, warnings = choose_gpus(request_)
    assert indices(gpus) == chosen
    assert len(warnings) == len(machine) - len(chosen)
    for warning in warnings:
        assert "GPU 1 is busy (process 4242 with 1.5 GiB) and left out" in warning


@on("none")
def test_no_gpu_is_fine_unless_one_is_asked_for(machine: list[Gpu]) -> None:
    assert choose_gpus(None) == ([], [])
    with pytest.raises(UserError, match="no NVIDIA GPU; leave --gpus out, or give none"):
        choose_gpus("all")
    with pytest.raises(UserError, match=r"GPU 0 is not there; .* give --gpus none to train on"):
        choose_gpus("0")


@pytest.mark.parametrize("request_", [None, "all"])
@on("all_busy")
def test_every_gpu_busy(machine: list[Gpu], request_: str | None) -> None:
    with pytest.raises(UserError, match=r"every GPU is busy .*name one") as caught:
        choose_gpus(request_)
    for pid in (17, 4242, 4243):
        assert f"process {pid} with 1.5 GiB" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "chosen"),
    [("0", [0]), ("2", [2]), ("2,0", [2, 0]), (" 0 , 2 ", [0, 2]), ("2,2,02", [2])],
)
@on("three")
def test_indices(machine: list[Gpu], request_: str, chosen: list[int]) -> None:
    gpus, warnings = choose_gpus(request_)
    assert (indices(gpus), warnings) == (chosen, [])


@on("middle_busy")
def test_a_busy_gpu_is_used_when_it_is_named(machine: list[Gpu]) -> None:
    gpus, warnings = choose_gpus("1,2")
    assert indices(gpus) == [1, 2]
    [warning] = warnings
    assert warning == "GPU 1 is busy (process 4242 with 1.5 GiB); it is used all the same, as asked"


@on("three")
def test_a_gpu_that_is_not_there(machine: list[Gpu]) -> None:
    with pytest.raises(UserError, match=r"--gpus 0,3: GPU 3 is not there; there are 0 \(NVIDIA"):
        choose_gpus("0,3")


@pytest.mark.parametrize("request_", ["", ",", "0,", "-1", "0;1", "0 1", "ALL", "two", "1.0", "²"])
@on("three")
def test_requests_that_mean_nothing(machine: list[Gpu], request_: str) -> None:
    with pytest.raises(UserError, match="give all, none, or indices such as 0,1") as caught:
        choose_gpus(request_)
    assert "\n" not in str(caught.value)


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADARELU_SWEEP_GPU_LISTING", raising=False)
    gpus = list_gpus()
    assert indices(gpus) == list(range(len(gpus)))
    assert len({gpu.uuid for gpu in gpus}) == len(gpus)
    assert all(gpu.name and gpu.memory_bytes > 2**28 for gpu in gpus)


# Slots


def test_by_default_one_slot_per_gpu_or_one_in_all() -> None:
    assert make_slots([], None, 12) == [Slot(0, 12, None, "cpu")]
    slots = make_slots(MACHINES["three"], None, 12)
    assert [slot.gpu for slot in slots] == [gpu.uuid for gpu in MACHINES["three"]]
    assert {slot.threads for slot in slots} == {4}
    assert slots[2].name == "GPU 2 (NVIDIA A100-SXM4-40GB)"


def test_more_slots_than_gpus_share_them_in_turn() -> None:
    gpus = [gpu(0), gpu(3)]
    slots = make_slots(gpus, 5, 11)
    assert [slot.gpu for slot in slots] == [gpus[i].uuid for i in (0, 1, 0, 1, 0)]
    assert {slot.threads for slot in slots} == {2}
    assert [slot.gpu for slot in make_slots(gpus, 1, 11)] == [gpus[0].uuid]


@given(
    gpus=st.integers(0, 9),
    workers=st.none() | st.integers(1, 300),
    cores=st.integers(1, 300),
)
def test_slots_divide_the_machine(gpus: int, workers: int | None, cores: int) -> None:
    slots = make_slots([gpu(index) for index in range(gpus)], workers, cores)
    assert len(slots) == (workers or max(1, gpus))
    assert [slot.index for slot in slots] == list(range(len(slots)))
    [threads] = {slot.threads for slot in slots}
    assert threads >= 1
    assert threads * len(slots) <= max(cores, len(slots))
    assert (threads + 1) * len(slots) > cores  # no core is left that could go to all
    if gpus:
        shares = [sum(slot.gpu == gpu(index).uuid for slot in slots) for index in range(gpus)]
        assert sum(shares) == len(slots)
        assert max(shares) - min(shares) <= 1
    else:
        assert {slot.gpu for slot in slots} == {None}


def study(*, seeds: int = 1, searches: bool = False) -> Study:
    document = tomllib.loads(STUDY)
    document["matrix"] |= {"network": "vgg16_bn", "activation": "relu", "seeds": seeds}
    if searches:
        space = {"training.optimizer.lr": {"low": 0.001, "high": 0.1, "log": True}}
        document["search"] = {"trials": 4, "validation_fraction": 0.1, "space": space}
    return study_of(document, "small.toml")


@pytest.mark.parametrize(
    ("cores", "room", "given", "slots", "threads"),
    [
        (8, 64, study(seeds=20), 8, 1),
        (8, 64, study(seeds=3), 3, 2),  # no more than there are trials
        (8, 6.5, study(seeds=20), 3, 2),  # than there is memory for
        (8, 1, study(seeds=20), 1, 8),
        (8, 64, study(searches=True), 1, 8),  # what is proposed depends on who ends first
    ],
)
def test_a_study_without_gpus_has_a_slot_for_each_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, room: float, given: Study, slots: int, threads: int
) -> None:
    monkeypatch.setattr("adarelu_sweep.placing.slots.available_memory", lambda: int(room * 2**30))
    monkeypatch.setattr("adarelu_sweep.placing.slots.available_cores", lambda: cores)
    assert slots_for(given, [], None) == [Slot(index, threads) for index in range(slots)]
    assert slots_for(given, [], 2) == [Slot(0, 4), Slot(1, 4)]
    assert len(slots_for(given, [gpu(0)], None)) == 1


def test_slots_with_given_threads_leave_no_more_of_them_than_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resume keeps the threads of the launch, also where there is more to train by now."""
    monkeypatch.setattr("adarelu_sweep.placing.slots.available_cores", lambda: 8)
    assert slots_for(study(seeds=20), [], None, 4) == [Slot(0, 4), Slot(1, 4)]
    assert slots_for(study(seeds=20), [], None, 16) == [Slot(0, 16)]
    assert slots_for(study(seeds=20), [], 3, 4) == [Slot(index, 4) for index in range(3)]


@pytest.mark.parametrize("workers", [0, -1])
@pytest.mark.parametrize("gpus", [[], [gpu(0)]])
def test_no_slots(workers: int, gpus: list[Gpu]) -> None:
    with pytest.raises(UserError, match=f"--workers {workers}: give 1 or more"):
        make_slots(gpus, workers, 4)


def test_cores_and_memory() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert 0 < available_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("5000 100000", 1), ("max 100000", 64)]
)
def test_a_containers_limits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cores(tmp_path) == cores
    (tmp_path / "memory.current").write_text("3000000\n")
    for limit, free in (("5000000", 2_000_000), ("2000000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert available_memory(tmp_path) == free
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 2**20
