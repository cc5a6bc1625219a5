"""``bench``: what is measured, what is kept of it, and what follows for a study."""

import json
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.benchmarking.cases import groups_of, study_of_built_in
from adarelu_sweep.benchmarking.contestants import Lanes
from adarelu_sweep.benchmarking.estimate import Estimate, time_needed
from adarelu_sweep.benchmarking.measured import (
    GAIN,
    Conditions,
    Measurement,
    Measurements,
    Spread,
    best,
    best_pack,
    bf16_over_fp32,
)
from adarelu_sweep.benchmarking.measuring import measure
from adarelu_sweep.benchmarking.messages import Begun, Doing, Group, LeftOut, Measured, Order, Said
from adarelu_sweep.benchmarking.plain_loop import PlainImages
from adarelu_sweep.benchmarking.results import measurement_of, results_of
from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.shape import Shape, shape_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.gpus import Gpu, list_gpus, recorded
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.placing.slots import make_slots
from adarelu_sweep.reporting.benchmark import Report, as_json, as_table
from adarelu_sweep.studies.reading import study_of
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.registry import AUGMENTATIONS
from adarelu_sweep.wording import duration
from tests.sweeps import Command
from tests.trials import trial_settings

DAY = date(2026, 11, 24)
CPU = Slot(0, threads=1)
NARROW = '{name="vgg16", width=0.0625}'


@pytest.fixture
def here(tmp_path: Path) -> Command:
    """The command with a home that is not there yet, on a machine without GPUs."""
    (tmp_path / "gpus.json").write_text(recorded([]))
    return Command(tmp_path / "home", ADARELU_SWEEP_GPU_LISTING=str(tmp_path / "gpus.json"))


def study(**extra: Any) -> Study:
    """Two arms on digits."""
    training = {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.02}}
    document = {
        "name": "small",
        "matrix": {
            "dataset": "digits",
            "network": {"name": "vgg16_bn", "width": 0.0625},
            "activation": ["relu", "adarelu"],
            "seeds": 2,
        },
        "data": {"train_limit": 200, "test_limit": 100},
    }
    return study_of(document | {"training": training | extra.pop("training", {})} | extra, "here")


@cache
def small_group(precision: str = "fp32") -> Group:
    [group] = groups_of([study(training={"precision": precision})], Path())
    return group


def conditions(slot: Slot = CPU, activation: str = "relu", pack: int = 1) -> Conditions:
    """Those of an arm of ``study``."""
    group = small_group()
    [arm] = [arm for arm in group.arms if arm.activation.label == activation]
    return Conditions.of(slot, arm, group.shape, pack)


def measurement(
    wanted: Conditions, training: float, evaluation: float = 1000.0, day: date = DAY
) -> Measurement:
    """What was measured under some conditions, images per second."""
    return Measurement(
        conditions=wanted,
        training_images_per_second=Spread.of([training]),
        evaluation_images_per_second=Spread.of([evaluation]),
        measured=day,
        versions={"torch": "2"},
    )


# A whole run


@pytest.mark.long
def test_a_study_is_measured_kept_and_estimated(here: Command, study_file: Path) -> None:
    """With a process that measures; ``validate`` then knows how long the study takes."""
    arguments = ("--study", study_file, "--threads", "1", "--workers", "1", "--rounds", "1")
    document = here.json("bench", *arguments, "--pack", "2", "--json")
    rows = document["measurements"]
    assert [(row["activation"], row["pack"]) for row in rows] == [
        *(("relu", 1), ("adarelu", 1)),
        ("relu", 2),
    ]
    for row in rows:
        assert (row["device"], row["threads"]) == (document["machine"]["processor"], 1)
        assert (row["height"], row["width"], row["channels"], row["classes"]) == (32, 32, 1, 10)
        assert (row["network"], row["optimizer"]) == ("vgg16_bn(width=0.0625)", "sgd")
        for kind in ("training", "evaluation"):
            rate = row[f"{kind}_images_per_second"]
            assert 0 < rate["lower_quartile"] <= rate["median"] <= rate["upper_quartile"]
    relu, adarelu, packed = rows
    [plain] = document["plain_loop"]
    rates = [row["training_images_per_second"]["median"] for row in (relu, adarelu, plain)]
    assert relu["training_over_plain_loop"]["median"] == pytest.approx(rates[0] / rates[2])
    assert adarelu["training_over_plain_loop"]["median"] == pytest.approx(rates[1] / rates[2])
    assert adarelu["training_step_over_relu"]["median"] == pytest.approx(rates[0] / rates[1])
    assert relu["training_step_over_relu"] is None
    assert packed["training_over_smaller_pack"]["median"] > 0
    over = packed["training_images_per_second"]["median"] / rates[2]
    assert packed["training_median_over_plain_loops"] == pytest.approx(over)
    kept = Measurements.read(Home(here.home))
    assert len(kept.measurements) == 3
    one = kept.under(Conditions.model_validate({key: relu[key] for key in Conditions.model_fields}))
    assert one is not None
    assert one.training_images_per_second.median == rates[0]
    assert one.versions == document["versions"]
    assert {*one.versions} == {"adarelu_sweep", "python", "torch"}
    said = document["estimate"]
    assert (said["study"], said["slots"]) == ("small", 1)
    assert said["seconds"] >= said["seconds_in_packs"] > 0


@pytest.mark.long
def test_what_is_built_in_is_measured_as_a_table(here: Command) -> None:
    call = ("bench", "--network", NARROW, "--activation", "relu", "--activation", "silu")
    done = here.run(*call, "--rounds", "2", "--no-save")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = [line[:2] for line in lines if line[:1] == ["vgg16(width=0.0625)"]]
    assert rows == [["vgg16(width=0.0625)", name] for name in ("relu", "silu", "relu,")]
    assert "Medians of 2 rounds in which all take turns: too few for quartiles." in done.stdout
    assert " to " not in done.stdout
    assert "cpu: vgg16(width=0.0625), fp32, silu" in done.stderr.splitlines()
    assert not here.home.exists()


@pytest.mark.long
def test_an_interrupt_leaves_nothing(here: Command) -> None:
    process = here.start("bench", "--network", NARROW, "--rounds", "1000")
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "cpu: starting\n"
        process.stderr.readline()  # the other process is there, and measures
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "Interrupted."
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not (here.home / "bench.json").exists()


@pytest.mark.long
def test_what_was_measured_before_it_failed_is_kept(here: Command) -> None:
    """The second network's arm fails in its first batch."""
    call = ("bench", "--network", NARROW, "--network", "tests.test_bench:Failing")
    done = here.run(*call, "--activation", "relu", "--rounds", "1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("ValueError: never")
    assert done.stdout == ""
    [one] = Measurements.read(Home(here.home)).measurements
    assert (one.conditions.network, len(one.versions)) == ("vgg16(width=0.0625)", 3)


@pytest.mark.long
def test_it_ends_when_the_time_is_over(here: Command) -> None:
    """All activations in two networks take about ten seconds in two rounds, even if narrow."""
    call = ("bench", "--network", NARROW, "--network", '{name="vgg16_bn", width=0.0625}')
    document = here.json(*call, "--seconds", "2", "--pack", "64", "--format", "json")
    measured = {(row["network"], row["activation"]) for row in document["measurements"]}
    assert ("vgg16(width=0.0625)", "relu") in measured
    assert len(measured) < 2 * len(ACTIVATIONS.names())
    assert (
        "vgg16(width=0.0625), fp32, relu: a pack of 64: the time was over" in (document["left_out"])
    )
    assert len(Measurements.read(Home(here.home)).measurements) == len(measured)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--network", "resnet"], "unknown network 'resnet' (did you mean 'resnet18'?)"),
        (["--activation", "adarlu"], "'adarelu'"),
        (["--activation", "relu", "--activation", "relu"], "relu is listed 2 times"),
        (["--batch-size", "0"], "training.batch_size"),
        (["--pack", "two"], "--pack two: give auto, or a number from 1 to 64"),
        (["--pack", "\u0664"], "give auto, or a number from 1 to 64"),
        (["--pack", "1" * 5000], "give auto, or a number from 1 to 64"),
        (["--gpus", "all"], "this machine has no NVIDIA GPU"),
        (["--study", "nowhere.toml"], "there is no such study file"),
        (["--study", "nowhere.toml", "--network", "vgg16"], "change them with --set"),
        (["--set", "training.epochs=1"], "name one with --study"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
@pytest.mark.long
def test_what_cannot_be_measured_is_one_line(
    here: Command, arguments: list[str], expected: str
) -> None:
    done = here.run("bench", *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert expected in line
    assert not here.home.exists()


def test_a_data_set_that_is_not_known(here: Command, study_file: Path) -> None:
    done = here.run("bench", "--study", study_file, "--set", "matrix.dataset=mnits")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: unknown data set 'mnits' (did you mean 'mnist'?)")
    assert done.stderr.count("\n") == 1


# What takes turns


def test_what_is_built_in_on_images_like_cifar_10s() -> None:
    groups = groups_of([study_of_built_in([], [], "bf16", 16)], Path())
    assert [group.arms[0].network.name for group in groups] == ["vgg16", "vgg16_bn", "resnet18"]
    for group in groups:
        assert group.shape == Shape(32, 32, 3, 10)
        assert [arm.activation.name for arm in group.arms] == ACTIVATIONS.names()
        assert group.arms[group.reference].activation.name == "relu"
        for arm in group.arms:
            assert (arm.training.precision, arm.training.batch_size) == ("bf16", 16)
            assert not arm.training.probes


def test_data_sets_of_one_shape_are_measured_once() -> None:
    matrix = {"dataset": ["mnist", "cifar100", "fashion_mnist"], "network": ["vgg16", "resnet18"]}
    matrix |= {"activation": ["adarelu", "silu"], "seeds": 1}
    groups = groups_of([study(matrix=matrix)], Path())
    shapes = [(group.shape.channels, group.shape.classes) for group in groups]
    assert shapes == [(1, 10), (1, 10), (3, 100), (3, 100)]
    assert {group.reference for group in groups} == {0}


def test_the_shape_is_that_of_the_images_as_they_are_trained_on(tmp_path: Path) -> None:
    for side, channels in ((20, 3), (40, 1)):
        made = random_arrays(Shape(side, side, channels, 7), train=9, test=3)
        npz.save(made, tmp_path / "own.npz")
        dataset = ResidentDataset.load("own", tmp_path, "cpu")
        said = shape_of("own", tmp_path)
        assert said == Shape(max(side, 32), max(side, 32), channels, dataset.num_classes)
        assert dataset.images["train"].shape[1:] == (channels, said.height, said.width)


def test_the_plain_loop_sees_what_the_package_sees() -> None:
    arrays = random_arrays(Shape(28, 28, 3, 10), train=5, test=1)
    plain = PlainImages(arrays, AUGMENTATIONS.resolve("none"))
    images, labels = ResidentDataset(arrays, "cpu").batch("train", torch.arange(5))
    for index in range(5):
        image, label = plain[index]
        assert label == labels[index]
        torch.testing.assert_close(image, images[index], rtol=1e-4, atol=1e-4)


def test_the_plain_loop_augments_as_the_study_does() -> None:
    arrays = random_arrays(Shape(32, 32, 3, 10), train=1, test=1)
    plain = PlainImages(arrays, AUGMENTATIONS.resolve({"name": "crop_flip", "padding": 2}))
    seen = {plain[0][0].numpy().tobytes() for _ in range(30)}
    assert len(seen) > 5
    assert {plain[0][0].shape for _ in range(3)} == {(3, 32, 32)}


# The process that measures


class Greedy(nn.ReLU):
    """ReLU, of which there is room for so many."""

    room = 0

    def __init__(self) -> None:
        super().__init__()
        Greedy.room -= 1
        if Greedy.room < 0:
            raise MemoryError


class Faulty(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"a batch\nof {len(x)}")


class Failing(nn.Module):
    """A network that can be built, and no more."""

    def __init__(self, activation: Any, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("never")


def said_of(
    activations: list[str],
    packs: list[int] | None,
    networks: Sequence[str] = (NARROW,),
    rounds: int | None = 1,
    seconds: float | None = 60,
    precision: str = "fp32",
) -> list[Said]:
    """What is said of an arm of each activation, measured in this process."""
    wanted = study_of_built_in(networks, activations, precision, 4)
    groups = groups_of([wanted], Path())
    amount = {"rounds": rounds, "seconds": seconds, "turn_seconds": 0.01}
    order = Order(groups=groups, threads=1, loaders=0, packs=packs, **amount)
    said: list[Said] = []
    measure(order, torch.device("cpu"), said.append)
    return said


GREEDY = "tests.test_bench:Greedy"


@pytest.mark.parametrize(
    ("activations", "networks", "left_out", "rest"),
    [
        (["relu", GREEDY], 0, "", [(0, 1), (0, 2)]),
        (
            [GREEDY],
            3,
            ": a pack of 2",
            [(0, 1)],
        ),  # a first look, the arm, the plain loop
    ],
)
def test_what_there_is_no_memory_for_is_left_out(
    one_thread: None,
    activations: list[str],
    networks: int,
    left_out: str,
    rest: list[tuple[int, int]],
) -> None:
    Greedy.room = 13 * networks
    said = said_of(activations, packs=[2])
    [what] = [message.what for message in said if isinstance(message, LeftOut)]
    arm = f"vgg16(width=0.0625), fp32, {GREEDY}"
    assert what.startswith(f"{arm}{left_out}: out of memory (the host has ")
    measured = [message for message in said if isinstance(message, Measured)]
    assert [(m.arm, m.pack) for m in measured if not m.plain] == rest
    assert [m.arm for m in measured if m.plain] == [0]


def test_without_time_the_reference_of_the_first_network_is_measured(one_thread: None) -> None:
    networks = (NARROW, "resnet18")
    said = said_of(["silu", "relu"], [2, 4], networks, rounds=None, seconds=0.001)
    [one] = [message for message in said if isinstance(message, Measured)]
    assert (one.group, one.arm, one.pack, one.plain) == (0, 1, 1, False)
    assert len(one.training) == len(one.evaluation) == 2
    first = "vgg16(width=0.0625), fp32"
    over = [message.what for message in said if isinstance(message, LeftOut)]
    assert over == [
        f"{first}: the plain loop: the time was over",
        f"{first}, silu: the time was over",
        f"{first}, relu: a pack of 2: the time was over",
        f"{first}, relu: a pack of 4: the time was over",
        "resnet18, fp32: the time was over",
    ]


def test_with_all_the_time_packs_grow_until_that_does_not_help(one_thread: None) -> None:
    said = said_of(["relu"], None, rounds=None, seconds=None)
    measured = [message for message in said if isinstance(message, Measured)]
    assert [(m.pack, m.plain, len(m.training)) for m in measured][:3] == [
        *((1, False, 7), (1, True, 7)),
        (2, False, 3),
    ]
    assert not [message for message in said if isinstance(message, LeftOut)]


def test_bf16_takes_turns_with_fp32(one_thread: None) -> None:
    said = said_of(["silu", "relu"], packs=[2], rounds=2, precision="bf16")
    measured = [message for message in said if isinstance(message, Measured)]
    assert [(m.arm, m.in_fp32, m.plain, m.pack, len(m.training)) for m in measured] == [
        *((0, False, False, 1, 2), (1, False, False, 1, 2)),
        *((1, True, False, 1, 2), (1, False, True, 1, 2)),
        (1, False, False, 2, 2),
    ]
    seen = [message.what for message in said if isinstance(message, Doing)]
    assert "vgg16(width=0.0625), bf16, relu: the same in fp32" in seen


def test_a_part_that_fails_is_named(one_thread: None) -> None:
    with pytest.raises(RuntimeError) as raised:
        said_of(["tests.test_bench:Faulty"], packs=[])
    arm = "vgg16(width=0.0625) with tests.test_bench:Faulty"
    assert str(raised.value) == f"{arm}: ValueError: a batch of 4"


def test_a_pack_trains_what_its_trials_train_alone(one_thread: None) -> None:
    """So that what is timed is the work of a sweep."""
    trial = trial_settings("vgg16_bn", batch_size=8)
    dataset = ResidentDataset(random_arrays(Shape(32, 32, 1, 10), 16, 16), "cpu")
    pack, alone = Lanes(trial, dataset), Lanes(trial, dataset)
    pack.grow(2)
    assert pack.train(3, size=2) > 0
    assert alone.train(3) > 0
    ours, theirs = (lanes._lanes[0].network.state_dict() for lanes in (pack, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_evaluation_takes_as_many_batches_as_are_asked_for(one_thread: None) -> None:
    """However many test images there are, and however large the pack."""
    seen: list[int] = []

    class Watching(ResidentDataset):
        def batch(self, split: str, indices: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            seen.append(len(indices))
            return super().batch(split, indices, *rest)  # type: ignore[arg-type]

    dataset = Watching(random_arrays(Shape(32, 32, 1, 10), 16, 64), "cpu")
    pack = Lanes(trial_settings("vgg16_bn", batch_size=8), dataset)
    pack.grow(2)
    assert pack.evaluate(3, size=2) > 0
    assert seen == [8] * 6
    assert pack.evaluate(8) > 0
    assert seen == [8] * 14


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_packs_on_a_gpu(tmp_path: Path) -> None:
    command = Command(tmp_path)
    call = ("bench", "--network", NARROW, "--activation", "relu", "--gpus", "0", "--rounds", "2")
    document = command.json(*call, "--format", "json")
    rows = document["measurements"]
    assert {row["device"] for row in rows} == {list_gpus()[0].name}
    assert {row["threads"] for row in rows} == {None}
    assert [row["pack"] for row in rows][:2] == [1, 2]
    gains = [row["training_over_smaller_pack"]["median"] for row in rows[1:]]
    assert all(gain > GAIN for gain in gains[:-1])


# What is shown


def shown_of(*said: Measured) -> tuple[str, list[Any]]:
    """What is printed of an arm and a plain loop that a process measured, and its JSON's rows."""
    amount = {"packs": [], "rounds": None, "seconds": None}
    order = Order(groups=[small_group(), small_group()], threads=1, loaders=0, **amount)
    found = results_of(CPU, order, [Begun(versions={"torch": "2"}), *said], DAY)
    report = Report([found], DAY)
    return as_table(report), json.loads(as_json(report))["measurements"]


RELU = Measured(group=0, arm=0, training=[100, 110, 120], evaluation=[400, 400, 400])
PLAIN = Measured(group=0, arm=0, plain=True, training=[50, 55, 60])
PACK = Measured(
    **{"group": 0, "arm": 0, "pack": 2, "training": [220, 200], "evaluation": [800, 900]},
    smaller_pack=[100, 100],
)


def test_a_pack_stands_beside_the_plain_loop() -> None:
    table, [one, pack] = shown_of(RELU, PLAIN, PACK)
    assert one["training_over_plain_loop"]["median"] == 2
    assert one["training_median_over_plain_loops"] is None
    assert pack["training_median_over_plain_loops"] == pytest.approx(210 / 55)
    [row] = [line for line in table.splitlines() if " 2  " in line]
    assert row.split()[-5:] == ["2", "210", "850", "3.82", "2.10"]
    assert "Over the plain loop's, a pack's is a ratio of medians" in table


def test_bf16_stands_beside_fp32(tmp_path: Path) -> None:
    """It is shown, and kept so that ``launch`` can warn."""
    order = Order(
        groups=[small_group("bf16")], threads=1, loaders=0, packs=[], rounds=None, seconds=None
    )
    slow = RELU.model_copy(update={"training": [9, 11, 13]})
    said = [slow, RELU.model_copy(update={"in_fp32": True, "training": [100, 100, 100]}), PLAIN]
    found = results_of(CPU, order, said, DAY)
    report = Report([found], DAY)
    [row] = json.loads(as_json(report))["measurements"]
    assert row["precision"] == "bf16"
    assert row["training_over_fp32"]["median"] == pytest.approx(0.11)
    assert row["training_over_plain_loop"]["median"] == pytest.approx(0.2)
    assert "bf16 over fp32, training vgg16_bn(width=0.0625) with relu: 0.11 (0.10 to 0.12)." in (
        " ".join(as_table(report).split())
    )
    home = Home(tmp_path)
    Measurements.keep(home, [measurement_of(CPU, order, one, {}, DAY) for one in said[:2]])
    relu = small_group("bf16").arms[0]
    assert bf16_over_fp32(home, conditions().device, relu) == (pytest.approx(0.11), DAY)
    assert "over fp32" not in shown_of(RELU, PLAIN)[0]


@pytest.mark.long
def test_bf16_is_kept_beside_fp32(here: Command) -> None:
    call = ("bench", "--network", NARROW, "--activation", "relu", "--precision", "bf16")
    done = here.run(*call, "--rounds", "1", "--threads", "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "bf16 over fp32, training vgg16(width=0.0625) with relu: " in done.stdout
    [group] = groups_of([study_of_built_in([NARROW], ["relu"], "bf16", 32)], Path())
    found = bf16_over_fp32(Home(here.home), conditions().device, group.arms[0])
    assert found
    assert found[0] > 0


def test_where_no_plain_loop_was_measured_no_pack_stands_beside_it() -> None:
    table, [_, pack] = shown_of(RELU, PACK)
    assert pack["training_median_over_plain_loops"] is None
    [row] = [line for line in table.splitlines() if " 2  " in line]
    assert row.split()[-5:] == ["2", "210", "850", "-", "2.10"]
    assert "ratio of medians" not in table


def test_quartiles_are_shown_of_three_rounds_or_more() -> None:
    table, _ = shown_of(RELU, PLAIN)
    assert "110 (105 to 115)" in table
    assert "Medians of 3 rounds in which all take turns, with the quartiles." in table
    few = RELU.model_copy(update={"group": 1, "training": [70, 80], "evaluation": [300, 300]})
    table, _ = shown_of(RELU, few)
    assert "75.0  " in table
    assert "Medians of 2 to 3 rounds in which all take turns, with the quartiles of 3 or" in table
    assert "Medians of 2 rounds in which a pack takes turns" in shown_of(RELU, PACK)[0]


# What is kept


rates = st.integers(1, 10**6).map(float)


@settings(deadline=None)
@given(st.lists(rates, min_size=1))
def test_the_median_lies_between_the_quartiles(values: list[float]) -> None:
    spread = Spread.of(values)
    low, high = spread.lower_quartile, spread.upper_quartile
    assert min(values) <= low <= spread.median <= high <= max(values)


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 64), rates, min_size=1))
def test_the_best_pack_gains_enough_over_all_smaller_ones(by_size: dict[int, float]) -> None:
    found = best(measurement(conditions(pack=size), rate) for size, rate in by_size.items())
    size, rate = found.conditions.pack, found.training_images_per_second.median
    assert all(rate > by_size[other] for other in by_size if other < size)
    assert all(by_size[other] <= GAIN * rate for other in by_size if other > size)


def test_newer_measurements_replace_equal_ones(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert Measurements.read(home) == Measurements()
    first = [measurement(conditions(), 100), measurement(conditions(activation="adarelu"), 90)]
    Measurements.keep(home, first)
    assert Measurements.read(home) == Measurements(measurements=first)
    newer = measurement(conditions(), 200, day=date(2026, 11, 25))
    packed = measurement(conditions(pack=2), 300)
    after = Measurements.read(home).with_newer([newer, packed])
    assert [m.training_images_per_second.median for m in after.measurements] == [200, 90, 300]
    assert after.under(conditions()) == newer
    assert after.packs(conditions()) == [newer, packed]
    assert after.under(conditions(Slot(0, threads=2))) is None


def test_who_measures_at_once_loses_nothing(tmp_path: Path) -> None:
    home, sizes = Home(tmp_path), range(1, 33)

    def keep(size: int) -> None:
        Measurements.keep(home, [measurement(conditions(pack=size), 100)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, sizes))
    kept = [m.conditions.pack for m in Measurements.read(home).measurements]
    assert sorted(kept) == list(sizes)


@pytest.mark.parametrize("content", ["", "{", '{"version": 2, "measurements": []}', '{"a": 1}'])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path)
    home.bench_file.write_text(content)
    with pytest.raises(UserError, match="damaged, or of another version: delete it") as raised:
        Measurements.read(home)
    assert str(raised.value).startswith(f"{home.bench_file}: ")
    assert "\n" not in str(raised.value)
    assert best_pack(home, "Card", trial_settings()) is None
    assert str(raised.value) in time_of(study(), home)
    assert time_of(study(), home).startswith("how long it takes is not known: ")


def test_bench_refuses_a_damaged_file_at_once(here: Command) -> None:
    here.home.mkdir()
    (here.home / "bench.json").write_text("{")
    done = here.run("bench")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert (here.home / "bench.json").read_text() == "{"


def test_the_best_pack_of_a_trial(tmp_path: Path) -> None:
    home, gpu = Home(tmp_path), Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")
    relu, adarelu = small_group().arms
    assert best_pack(home, "Card", relu) is None
    sizes = {1: 100.0, 2: 180.0, 4: 185.0}
    of_relu = [measurement(conditions(gpu, pack=size), rate) for size, rate in sizes.items()]
    Measurements.keep(home, [*of_relu, measurement(conditions(gpu, "adarelu"), 90)])
    assert best_pack(home, "Card", relu) == 2
    assert best_pack(home, "Card", adarelu) == 2  # as for another activation
    assert best_pack(home, "Other card", relu) is None
    larger = relu.training.model_copy(update={"batch_size": 64})
    assert best_pack(home, "Card", relu.model_copy(update={"training": larger})) is None
    own = {1: 90.0, 4: 300.0}
    Measurements.keep(
        home, [measurement(conditions(gpu, "adarelu", size), rate) for size, rate in own.items()]
    )
    assert best_pack(home, "Card", adarelu) == 4
    assert best_pack(home, "Card", relu) == 2


def test_the_pace_of_bf16(tmp_path: Path) -> None:
    home, later = Home(tmp_path), date(2026, 11, 25)
    relu, adarelu = small_group().arms
    slow = {"precision": "bf16"}
    bf16 = conditions().model_copy(update=slow)
    device = bf16.device
    Measurements.keep(home, [measurement(conditions(), 100), measurement(bf16, 9, day=later)])
    Measurements.keep(home, [measurement(conditions(activation="adarelu"), 90)])
    assert bf16_over_fp32(home, device, relu) == (0.09, DAY)
    assert bf16_over_fp32(home, device, adarelu) == (0.09, DAY)  # as for another activation
    assert bf16_over_fp32(home, "Another", relu) is None
    larger = relu.training.model_copy(update={"batch_size": 64})
    assert bf16_over_fp32(home, device, relu.model_copy(update={"training": larger})) is None
    own = conditions(activation="adarelu").model_copy(update=slow)
    Measurements.keep(home, [measurement(own, 180)])
    assert bf16_over_fp32(home, device, adarelu) == (2, DAY)
    other_threads = conditions(Slot(0, threads=2), "relu").model_copy(update=slow)
    Measurements.keep(home, [measurement(other_threads, 500, day=later)])
    assert bf16_over_fp32(home, device, relu) == (0.09, DAY)  # of the same threads alone


# How long a study takes


def known(*slots: Slot) -> Measurements:
    """100 images/s of ReLU and 50 of AdaReLU; 400 images/s in evaluations."""
    speeds = {"relu": 100.0, "adarelu": 50.0}
    return Measurements().with_newer(
        measurement(conditions(slot, activation), rate, 400.0)
        for slot in slots
        for activation, rate in speeds.items()
    )


def estimate(
    wanted: Study, slots: list[Slot], measurements: Measurements, pack: int | None = None
) -> Estimate:
    found = Estimate.of(wanted, slots, measurements, Path(), pack)
    assert found is not None
    return found


def test_the_estimate_is_epochs_times_images_over_rates() -> None:
    one = estimate(study(), [CPU], known(CPU))
    # 2 seeds x 3 epochs of 200 training and 100 test images, in two arms
    assert one.seconds == pytest.approx(6 * (200 / 100 + 100 / 400) + 6 * (200 / 50 + 100 / 400))
    assert one.seconds_in_packs == one.seconds
    assert str(one) == "about 39 s on 1 slot, as measured here on 2026-11-24"
    two = estimate(study(), [CPU, Slot(1, 1)], known(CPU))
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert str(two) == (
        "about 20 s on 2 slots, as if none slowed another, as measured here on 2026-11-24"
    )


def test_the_estimate_of_a_search() -> None:
    space = {"training.optimizer.lr": {"low": 0.01, "high": 0.1}}
    search = {"trials": 5, "validation_fraction": 0.1, "confirm_seeds": 4, "space": space}
    found = estimate(study(search=search), [CPU], known(CPU))
    searched = 5 * 3 * (180 / 100 + 20 / 400) + 5 * 3 * (180 / 50 + 20 / 400)
    confirmed = 4 * 3 * (200 / 100 + 100 / 400) + 4 * 3 * (200 / 50 + 100 / 400)
    assert found.seconds == pytest.approx(searched + confirmed)


def test_slots_of_several_gpus() -> None:
    """One of two models each works at its pace, and slots that share a GPU share its pace."""
    fast = Gpu(index=0, uuid="GPU-0", name="Fast", memory_bytes=1)
    slow = Gpu(index=1, uuid="GPU-1", name="Slow", memory_bytes=1)
    slots = make_slots([fast, slow], 4, cores=8)
    doubled = [
        measurement(m.conditions, 2 * m.training_images_per_second.median, 800.0)
        for m in known(slots[0]).measurements
    ]
    both = known(slots[1]).with_newer(doubled)
    alone = estimate(study(), [CPU], known(CPU)).seconds
    found = estimate(study(), slots, both)
    assert (found.seconds, found.slots) == (pytest.approx(alone / 3), 4)
    assert Estimate.of(study(), slots, known(slots[0]), Path()) is None


CARD = Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")


def in_packs(slot: Slot, *sizes: int) -> Measurements:
    """Packs of both arms, that do as many times what one does, beside what is ``known``."""
    return known(slot).with_newer(
        measurement(conditions(slot, activation, size), rate * size, 400.0 * size)
        for activation, rate in {"relu": 100.0, "adarelu": 50.0}.items()
        for size in sizes
    )


@pytest.mark.parametrize(
    ("seeds", "pack", "gain"),
    [
        (1, None, 1),
        (3, None, 2),
        (4, None, 2),
        (8, None, 8),
        (9, None, 9 / (1 + 1)),  # the ninth goes alone
        (12, None, 12 / (1 + 4 / 2)),
        (8, 1, 1),
        (8, 2, 2),
        (8, 3, 2),
        (8, 64, 8),
    ],
)
def test_packs_are_of_the_size_asked_for_and_of_the_seeds_there_are(
    seeds: int, pack: int | None, gain: float
) -> None:
    """Packs of 2 and of 8 were measured: 3 to 7 trials at once have the pace of 2."""
    matrix = study().matrix.model_copy(update={"seeds": list(range(seeds))})
    wanted = study().model_copy(update={"matrix": matrix})
    found = estimate(wanted, [CARD], in_packs(CARD, 2, 8), pack)
    assert found.seconds / found.seconds_in_packs == pytest.approx(gain)
    assert (" in packs of " in str(found)) == (gain > 1)
    if pack and pack > 1:
        assert f" in packs of up to {pack} (" in str(found)


def test_where_only_larger_packs_were_measured_an_arm_goes_alone() -> None:
    found = estimate(study(), [CARD], in_packs(CARD, 4))
    assert found.seconds_in_packs == found.seconds


def test_a_pack_is_no_larger_than_a_slots_share_of_the_trials() -> None:
    """Two arms of two seeds on four GPUs: one trial for each."""
    slots = [Slot(index, 1, f"GPU-{index}", "", "Card") for index in range(4)]
    found = estimate(study(), slots, in_packs(CARD, 2))
    assert found.seconds_in_packs == found.seconds
    found = estimate(study(), slots[:2], in_packs(CARD, 2))
    assert found.seconds_in_packs == pytest.approx(found.seconds / 2)


def test_packs_on_a_cpu_count_where_they_are_asked_for() -> None:
    found = estimate(study(), [CPU], in_packs(CPU, 2))
    assert found.seconds_in_packs == found.seconds
    asked = estimate(study(), [CPU], in_packs(CPU, 2), 2)
    assert asked.seconds_in_packs == pytest.approx(found.seconds / 2)


def test_a_pack_that_is_asked_for_may_be_slower() -> None:
    slower = [measurement(conditions(CPU, name, 2), 25, 200) for name in ("relu", "adarelu")]
    found = estimate(study(), [CPU], known(CPU).with_newer(slower), 2)
    assert found.seconds_in_packs > found.seconds
    assert str(found).startswith("about 2 min on 1 slot in packs of up to 2 (39 s without), ")


def test_a_search_goes_one_by_one_and_its_confirmation_in_packs() -> None:
    space = {"training.optimizer.lr": {"low": 0.01, "high": 0.1}}
    search = {"trials": 5, "validation_fraction": 0.1, "confirm_seeds": 4, "space": space}
    found = estimate(study(search=search), [CARD], in_packs(CARD, 4))
    searched = 5 * 3 * (180 / 100 + 20 / 400) + 5 * 3 * (180 / 50 + 20 / 400)
    confirmed = 4 * 3 * (200 / 100 + 100 / 400) + 4 * 3 * (200 / 50 + 100 / 400)
    assert found.seconds_in_packs == pytest.approx(searched + confirmed / 4)


def test_the_estimate_in_packs_and_its_date() -> None:
    slot = Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")
    packs = [
        measurement(conditions(slot, "relu", 2), 200, 800, day=date(2026, 11, 20)),
        measurement(conditions(slot, "adarelu", 2), 100, 800),
    ]
    found = estimate(study(), [slot], known(slot).with_newer(packs))
    assert found.seconds_in_packs == pytest.approx(found.seconds / 2)
    assert str(found) == (
        "about 20 s on 1 slot in packs of the best size (39 s without), "
        "as measured here on 2026-11-20"
    )


def test_an_arm_gains_in_packs_what_another_of_its_network_gains() -> None:
    slot = Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")
    packs = [
        measurement(conditions(slot, "relu", 2), 200, 600, day=date(2026, 11, 20)),
        measurement(conditions(slot, "relu", 4), 204, 900),  # not enough more
    ]
    found = estimate(study(), [slot], known(slot).with_newer(packs))
    relu = 6 * (200 / 200 + 100 / 600)
    adarelu = 6 * (200 / (50 * 2) + 100 / (400 * 1.5))
    assert found.seconds_in_packs == pytest.approx(relu + adarelu)
    assert found.measured == date(2026, 11, 20)


def test_a_gain_follows_from_other_images_but_from_no_other_network_or_precision() -> None:
    slot = Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")

    def gain(known: Measurements, times: int, **other: Any) -> tuple[Measurements, float]:
        """What is known after packs of two were measured, and what a study is faster in packs."""
        of = conditions(slot, "relu").model_copy(update=other)
        rates = {1: 100, 2: 100 * times}
        packs = [
            measurement(of.model_copy(update={"pack": size}), rate, 4 * rate)
            for size, rate in rates.items()
        ]
        known = known.with_newer(packs)
        found = estimate(study(), [slot], known)
        return known, found.seconds / found.seconds_in_packs

    after, times = gain(known(slot), 5, precision="bf16")
    assert times == 1
    after, times = gain(after, 5, network="resnet18")
    assert times == 1
    after, times = gain(after, 3, channels=3)
    assert times == pytest.approx(3)
    _, times = gain(after, 2)  # of the study's own images
    assert times == pytest.approx(2)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3590, "1 h"),
        (19200, "5 h 20 min"),
        (172_000, "47 h 47 min"),
        (172_800, "2 days"),
        (270_000, "3 days 3 h"),
    ],
)
def test_how_a_duration_is_written(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def time_of(wanted: Study, home: Home) -> str:
    return time_needed(wanted, [CPU], home, Path(), "adarelu-sweep bench --study FILE")


def test_how_long_it_takes_is_known_or_how_to_know_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    unknown = "how long it takes is not known: adarelu-sweep bench --study FILE"
    assert time_of(study(), home) == unknown
    Measurements.keep(home, known(CPU).measurements)
    assert time_of(study(), home) == "about 39 s on 1 slot, as measured here on 2026-11-24"
    assert time_of(study(training={"batch_size": 16}), home) == unknown


def test_validate_says_how_long_it_takes(here: Command, study_file: Path) -> None:
    home = Home(here.home)
    home.create()
    slot = make_slots([], 1, available_cores())[0]
    Measurements.keep(home, in_packs(slot, 2).measurements)
    call = ("validate", study_file, "--workers", "1", "--set", "data.train_limit=200")
    call += ("--set", "training.epochs=9")
    alone = "  time         about 2 min on 1 slot, as measured here on 2026-11-24\n"
    assert alone in here.succeed(*call)
    assert alone in here.succeed(*call, "--pack", "1")
    packed = "  time         about 58 s on 1 slot in packs of up to 2 (2 min without), as measured"
    assert packed in here.succeed(*call, "--pack", "2")
