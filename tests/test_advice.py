"""What is said before a night is spent: packs that nobody measured, and bf16 that is slow."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adarelu_sweep.benchmarking.measured import Conditions, Measurement, Measurements, Spread
from adarelu_sweep.benchmarking.processor import has_bf16, processor_name
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.operating import advice as advising
from adarelu_sweep.operating import sweep
from adarelu_sweep.operating.advice import bf16_warning, pack_lines
from adarelu_sweep.operating.sweep import Machine, launch, resume
from adarelu_sweep.placing.gpus import recorded
from adarelu_sweep.placing.packing import AUTO
from adarelu_sweep.studies.reading import study_of
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.running import Screen
from adarelu_sweep.supervising.supervisor import Ending
from adarelu_sweep.training.settings import TrialSettings
from tests.test_bench import DAY
from tests.test_cli import GPU as CARD
from tests.test_cli import imported, on_machine

CPU = Slot(0, threads=1)
GPU = Slot(0, 8, "GPU-0", "GPU 0 (Card)", "Card")
BENCH = "adarelu-sweep bench --study FILE"
BF16 = ("--set", "training.precision=bf16")


def study(**matrix: Any) -> Study:
    """Two networks, two activations, two seeds."""
    table = {"dataset": "digits", "network": ["vgg16", "resnet18"], "seeds": 2}
    table |= {"activation": ["relu", "adarelu"]} | matrix
    return study_of({"name": "small", "matrix": table, "training": {"epochs": 1}}, "here")


def with_training(wanted: Study, **training: Any) -> Study:
    changed = wanted.training.model_copy(update=training)
    return wanted.model_copy(update={"training": changed})


def trial(wanted: Study, network: str, activation: str = "relu") -> TrialSettings:
    arms = {(arm.network.label, arm.activation.label): arm for arm in wanted.arms()}
    return arms[network, activation].settings(wanted, 0)


def keep(home: Home, slot: Slot, settings: TrialSettings, rates: dict[int, float]) -> None:
    """Keep throughputs of packs by their size."""
    Measurements.keep(
        home,
        [
            Measurement(
                conditions=Conditions.of(slot, settings, Shape(32, 32, 1, 10), pack),
                training_images_per_second=Spread.of([rate]),
                evaluation_images_per_second=Spread.of([rate]),
                measured=DAY,
                versions={},
            )
            for pack, rate in rates.items()
        ],
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    there = Home(tmp_path / "home")
    there.create()
    return there


# Packs


def packs(wanted: Study, home: Home, *slots: Slot, pack: int = AUTO) -> list[str]:
    return pack_lines(wanted, list(slots), pack, home, BENCH)


def test_packs_that_nobody_measured_are_of_one_and_say_so(home: Home) -> None:
    other = Slot(1, 8, "GPU-1", "GPU 1 (Other)", "Other")
    unknown = [f"1: the best size on {model} is not known: {BENCH}" for model in ("Card", "Other")]
    assert packs(study(), home, GPU, other, GPU) == unknown
    assert packs(study(), home, CPU) == []
    assert packs(study(), home, CPU, pack=4) == ["4, as asked"]
    assert packs(study(), home, GPU, other, pack=4) == ["4, as asked"]
    assert packs(study(seeds=1), home, GPU) == ["1, as an arm has one seed"]
    in_cluster = Slot(0, 8, "node/0", "node, GPU", node="node")
    [line] = packs(study(), home, in_cluster)
    assert line.startswith("1: of a cluster's GPUs")


def test_packs_of_the_size_that_was_measured(home: Home) -> None:
    wanted = study()
    keep(home, GPU, trial(wanted, "vgg16"), {1: 100, 8: 700})
    assert packs(study(network="vgg16"), home, GPU) == ["8, as measured on Card"]
    assert packs(wanted, home, GPU) == [
        "8 of vgg16, as measured on Card",
        f"1 of resnet18: the best size on Card is not known: {BENCH}",
    ]
    keep(home, GPU, trial(wanted, "resnet18"), {1: 100, 2: 101})
    assert packs(wanted, home, GPU) == [
        "8 of vgg16, as measured on Card",
        "1 of resnet18, as measured on Card",
    ]
    keep(home, GPU, trial(wanted, "vgg16", "adarelu"), {1: 100, 4: 300})
    assert packs(study(network="vgg16"), home, GPU) == ["4 to 8, as measured on Card"]


def test_trials_of_a_search_go_one_by_one(home: Home) -> None:
    space = {"training.optimizer.lr": {"low": 0.001, "high": 0.1}}
    search = {"trials": 4, "validation_fraction": 0.1, "space": space}
    document = {"name": "tuned", "training": {"epochs": 1}, "search": search}
    matrix = {"dataset": "digits", "network": "vgg16", "activation": "relu"}
    wanted = study_of(document | {"matrix": matrix | {"seeds": 1}}, "here")
    assert packs(wanted, home, GPU, pack=2) == ["1 in the search", "2, as asked"]


def test_validate_says_how_large_packs_are(tmp_path: Path, study_file: Path) -> None:
    command = on_machine(tmp_path, CARD)
    out = command.succeed("validate", study_file)
    bench = f"adarelu-sweep bench --study {study_file}"
    assert f"  packs        1: the best size on Card is not known: {bench}\n" in out
    assert "  packs        4, as asked\n" in command.succeed("validate", study_file, "--pack", "4")
    assert "packs" not in on_machine(tmp_path).succeed("validate", study_file)


def test_launch_and_resume_say_how_large_packs_are(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "gpus.json"
    listing.write_text(recorded([CARD]))
    monkeypatch.setenv("ADARELU_SWEEP_GPU_LISTING", str(listing))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = before_workers(home, study(), monkeypatch, Machine(), Machine(pack=2))
    unknown = f"packs: 1: the best size on Card is not known: {BENCH}\n"
    assert said == [unknown, "packs: 2, as asked\n"]


def before_workers(
    home: Home, wanted: Study, monkeypatch: pytest.MonkeyPatch, first: Machine, then: Machine
) -> list[str]:
    """What a launch and a resume say up to where workers would start."""
    monkeypatch.setattr(sweep, "run", lambda *_: Ending("interrupted"))
    shown = [io.StringIO(), io.StringIO()]
    screens = [
        Screen(lambda *_: pytest.fail("no report"), Console(file=file, width=40)) for file in shown
    ]
    launch(wanted, "", home, first, None, screens[0], BENCH)
    resume(wanted.name, home, then, screens[1], bench=BENCH)
    return [file.getvalue() for file in shown]


# bf16


@pytest.mark.parametrize("has", [True, False, None])
def test_bf16_without_instructions_is_told_of(
    home: Home, monkeypatch: pytest.MonkeyPatch, has: bool | None
) -> None:
    monkeypatch.setattr(advising, "has_bf16", lambda: has)
    wanted = with_training(study(), precision="bf16")
    told = bf16_warning(wanted, [CPU], home, BENCH)
    assert (told is not None) == (has is False)
    if told:
        assert told.startswith(f"bf16 on this processor ({processor_name()}): it has no ")
        assert told.endswith(f": measure both: {BENCH}")
    assert bf16_warning(study(), [CPU], home, BENCH) is None
    assert bf16_warning(wanted, [GPU], home, BENCH) is None
    assert bf16_warning(wanted, [Slot(0, 1, node="other")], home, BENCH) is None


def test_what_was_measured_of_bf16_counts_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "has_bf16", lambda: True)
    fp32 = study()
    bf16 = with_training(fp32, precision="bf16")
    for network, rate in {"vgg16": 10.4, "resnet18": 250.0}.items():
        keep(home, CPU, trial(fp32, network), {1: 100})
        keep(home, CPU, trial(bf16, network), {1: rate})
    assert bf16_warning(bf16, [CPU], home, BENCH) == (
        f"bf16 on this processor ({processor_name()}) trains at 0.10 x the pace of fp32, as "
        "measured here on 2026-11-24"
    )
    monkeypatch.setattr(advising, "has_bf16", lambda: False)
    fast = with_training(study(network="resnet18"), precision="bf16")
    assert bf16_warning(fast, [CPU], home, BENCH) is None
    keep(home, CPU, trial(bf16, "resnet18"), {1: 20})
    told = bf16_warning(bf16, [CPU], home, BENCH)
    assert told
    assert "at 0.10 to 0.20 x the pace" in told


def test_a_search_that_tries_bf16(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "has_bf16", lambda: False)
    search = {"trials": 4, "validation_fraction": 0.1}
    space = {"training.precision": {"choices": ["fp32", "bf16"]}}
    matrix = {"dataset": "digits", "network": "vgg16", "activation": "relu", "seeds": 1}
    document = {"name": "tuned", "matrix": matrix, "training": {"epochs": 1}}
    wanted = study_of(document | {"search": search | {"space": space}}, "here")
    told = bf16_warning(wanted, [CPU], home, BENCH)
    assert told
    assert told.endswith(f": measure both: {BENCH} --set training.precision=bf16")


def test_validate_launch_and_resume_warn_of_bf16_without_instructions(
    home: Home, tmp_path: Path, study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the features of the processor that runs the tests."""
    command = on_machine(tmp_path)
    modules, out = imported(command, "validate", study_file, *BF16)
    assert "torch" not in modules
    assert "Warning: bf16" not in command.succeed("validate", study_file)
    cpu = Machine("none")
    wanted = with_training(study(), precision="bf16")
    warning = f"Warning: bf16 on this processor ({processor_name()}): it has no instructions"
    for said in (out, *before_workers(home, wanted, monkeypatch, cpu, cpu)):
        assert said.count(warning) == (has_bf16() is False)
        assert "packs" not in said
