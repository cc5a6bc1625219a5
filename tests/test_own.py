"""Activations and networks of a user's own: found, proved, trained like the built-in ones."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adarelu_sweep.activations.layers import activation_layers
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component, Registry
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.history import History
from adarelu_sweep.training.optimizers import build_optimizer
from adarelu_sweep.training.registry import OPTIMIZERS
from adarelu_sweep.training.rehearsal import Parts, rehearse
from adarelu_sweep.training.settings import TrainingSettings
from tests.sweeps import Command

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "own-package"
OWN = "tests.own_parts:"


def refusal(registry: Registry, given: Any) -> str:
    with pytest.raises(ValueError, match=r".") as raised:
        registry.resolve(given)
    return str(raised.value)


# Names and arguments


def test_a_label_is_the_name_and_the_given_arguments() -> None:
    given = {"name": "package.module:Name", "b": 2.0, "a": True, "c": "x"}
    with pytest.raises(ValueError, match="there is no package 'package'"):
        ACTIVATIONS.resolve(given)
    component = ACTIVATIONS.resolve(given | {"name": "tests.whatever:Name"})
    assert component.label == "tests.whatever:Name(a=true,b=2.0,c=x)"
    assert component.arguments == {"a": True, "b": 2.0, "c": "x"}
    assert Component.model_validate_json(component.model_dump_json()) == component
    assert ACTIVATIONS.resolve(component.flattened()) == component
    assert NETWORKS.resolve("torch.nn:Linear").label == "torch.nn:Linear"


def test_the_types_of_arguments_last() -> None:
    component = ACTIVATIONS.resolve({"name": "tests:X", "a": 1, "b": 1.0, "c": True, "d": "1"})
    again = Component.model_validate_json(component.model_dump_json())
    assert [type(value) for value in again.arguments.values()] == [int, float, bool, str]


def test_finding_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "explosive.py").write_text("raise RuntimeError('imported')\n")
    script = (
        "import sys; from adarelu_sweep.activations.registry import ACTIVATIONS as a\n"
        "a.resolve('explosive:X'); a.resolve('torch.nn:Mish'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.to:Find", "no package 'nowhere'"),
        (":Name", "package.module:Name"),
        ("module:", "package.module:Name"),
        ("a b:Name", "package.module:Name"),
        (".relative:Name", "package.module:Name"),
        ("one:two:three", "package.module:Name"),
        ("rellu", "did you mean 'relu'?"),
        ({"name": "tests.x:Y", "a": [1]}, "give a number, a string, true or false"),
        ({"name": "tests.x:Y", "a": float("nan")}, "finite"),
        ({"name": "tests.x:Y", "a b": 1}, "'a b' cannot be the name of an argument"),
    ],
)
def test_what_cannot_be_found_or_passed_is_refused(given: Any, words: str) -> None:
    assert words in refusal(ACTIVATIONS, given)


def test_other_kinds_are_built_in_only() -> None:
    assert "unknown optimizer" in refusal(OPTIMIZERS, "torch.optim:SGD")


# Entry points


def offering(folder: Path, package: str, **offers: str) -> None:
    """Write what pip leaves of a package that offers activations."""
    info = folder / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in offers.items()]
    text = "\n".join(["[adarelu_sweep.activations]", *lines])
    (info / "entry_points.txt").write_text(text)


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offering(tmp_path, "one", mine="torch.nn:Mish", both="torch.nn:ReLU", relu="torch.nn:Tanh")
    offering(tmp_path, "two", both="torch.nn:GELU")
    monkeypatch.syspath_prepend(tmp_path)
    mine = ACTIVATIONS.resolve({"name": "mine", "inplace": False})
    assert mine.label == "mine(inplace=false)"
    assert ACTIVATIONS.load(mine) is nn.Mish
    assert ACTIVATIONS.load(ACTIVATIONS.resolve("relu")) is nn.ReLU  # the built-in one comes first
    assert "write torch.nn:GELU or torch.nn:ReLU" in refusal(ACTIVATIONS, "both")
    assert "did you mean 'mine'?" in refusal(ACTIVATIONS, "mime")
    assert "unknown network 'mine'" in refusal(NETWORKS, "mine")


# The rehearsal


def parts(network: Any, *activations: Any, **training: Any) -> Parts:
    return Parts(
        dataset=["digits"],
        network=[NETWORKS.resolve(network)],
        activation=[ACTIVATIONS.resolve(given) for given in activations],
        training=TrainingSettings.model_validate({"epochs": 30} | training),
    )


SMALL = {"name": "vgg16", "width": 0.05}


@pytest.mark.parametrize(
    ("network", "activation"),
    [
        (SMALL, "torch.nn:Mish"),
        (SMALL, {"name": "torch.nn:RReLU", "lower": 0.25}),
        (SMALL, {"name": OWN + "Drawing", "numbers": 7}),
        (SMALL, OWN + "Prints"),
        (OWN + "Normed", "prelu"),
        ({"name": OWN + "Normed", "width": 1}, OWN + "Drawing"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sound_parts_pass(tmp_path: Path, network: Any, activation: Any, precision: str) -> None:
    optimizer = {"name": "sgd", "momentum": 0.9}
    rehearse(parts(network, activation, precision=precision, optimizer=optimizer), tmp_path)


@pytest.mark.parametrize(
    ("network", "activation", "words"),
    [
        (SMALL, OWN + "Absent", ["activation tests.own_parts:Absent: AttributeError", "'Absent'"]),
        (SMALL, "tests.absent:X", ["activation tests.absent:X: ModuleNotFoundError"]),
        (
            SMALL,
            {"name": OWN + "Drawing", "number": 7},
            ["activation tests.own_parts:Drawing(number=7): TypeError", "argument 'number'"],
        ),
        (SMALL, OWN + "leaves", ["activation tests.own_parts:leaves: SystemExit: 3"]),
        (SMALL, OWN + "no_module", ["built a float, not an nn.Module"]),
        (SMALL, OWN + "Divides", ["ZeroDivisionError", "own_parts.py, line "]),
        (SMALL, OWN + "Detached", ["no gradient reaches features.0.conv.weight"]),
        (SMALL, OWN + "OnlyTraining", ["NotImplementedError: no evaluation"]),
        (SMALL, OWN + "Numpy", ["features.0.act.slope differs", "draw with torch"]),
        (SMALL, "torch.nn:GLU", ["activation torch.nn:GLU: RuntimeError"]),
        (OWN + "too_wide", "relu", ["network tests.own_parts:too_wide: ", "(2, 11), not (2, 10)"]),
        (OWN + "Pair", "relu", ["network tests.own_parts:Pair: gives a tuple"]),
        (OWN + "Absent", "relu", ["network tests.own_parts:Absent: AttributeError"]),
        (
            OWN + "Normed",
            OWN + "Divides",
            ["network tests.own_parts:Normed with activation tests.own_parts:Divides: Zero"],
        ),
        (
            {"name": OWN + "Normed", "depth": 3},
            "relu",
            ["network tests.own_parts:Normed(depth=3): TypeError"],
        ),
    ],
)
def test_broken_parts_are_named(
    tmp_path: Path, network: Any, activation: Any, words: list[str]
) -> None:
    with pytest.raises(UserError) as raised:
        rehearse(parts(network, activation), tmp_path)
    for word in words:
        assert word in str(raised.value)


def test_a_network_whose_weights_depend_on_the_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its initial weights depend on the activation"):
        rehearse(parts(OWN + "looks_at_the_activation", "relu", "tanh"), tmp_path)


# Weight decay


@pytest.mark.parametrize("activation", ["relu", "prelu", OWN + "Drawing"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_weight_decay_passes_over_activations(activation: str, optimizer: str) -> None:
    network = build_network(
        NETWORKS.resolve(SMALL), ACTIVATIONS.resolve(activation), 1, 10, torch.Generator()
    )
    layers = activation_layers(network).values()
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    given = {"name": optimizer, "lr": 0.5, "weight_decay": 0.1}
    built = build_optimizer(OPTIMIZERS.resolve(given), network)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == (parameter in inside or not parameter.any())
    in_groups = [parameter for group in built.param_groups for parameter in group["params"]]
    assert len(in_groups) == len(before) == len(set(in_groups))
    assert len(built.param_groups) == (2 if inside else 1)


# An installed package, and modules in the current folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed as pip installs it."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")  # building leaves files there
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    target = ["--no-build-isolation", "--target", folder / "site", folder / "source"]
    done = subprocess.run([*pip, *target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def command(tmp_path: Path, installed: Path) -> Iterator[Command]:
    one = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    command = Command(tmp_path / "home", PYTHONPATH=f"{installed}:{ROOT}", **one)
    yield command
    command.close()


@pytest.mark.long
def test_an_installed_package_is_trained_by_its_names_and_by_reference(command: Command) -> None:
    study = EXAMPLE / "study.toml"
    networks = ["small_cnn(channels=8)", "own_package.networks:small_cnn(channels=8)"]
    activations = ["relu", "swish(beta=2.0)", "own_package.activations:Swish(beta=2.0)"]
    tables = ", ".join(f"{{name='{name.partition('(')[0]}', channels=8}}" for name in networks)
    beta = ", ".join(f"{{name='{name.partition('(')[0]}', beta=2.0}}" for name in activations[1:])
    command.succeed(
        "launch",
        study,
        "--workers=1",
        "--set=matrix.seeds=1",
        f"--set=matrix.network=[{tables}]",
        f"--set=matrix.activation=['relu', {beta}]",
        "--set=report.figures=false",
    )
    report = command.json("report", "own", "--format", "json", "--no-figures")
    means = {(arm["network"], arm["activation"]): arm["mean"] for arm in report["arms"]}
    assert set(means) == set(itertools.product(networks, activations))
    # The same code under two names gives the same numbers; another activation gives others.
    assert {arm["n"] for arm in report["arms"]} == {1}
    checkpoints = list((command.home / "trials" / "own").glob("*/checkpoint.safetensors"))
    assert len(checkpoints) == len(networks) * len(activations)
    for checkpoint in checkpoints:
        for record in History.read(checkpoint.parent).epochs:
            assert record.probes
            assert all("dead_fraction" in seen for seen in record.probes.values())
    relu, *swish = ({means[network, name] for network in networks} for name in activations)
    assert len(relu) == 1
    assert swish[0] == swish[1] != relu
    assert len(swish[0]) == 1


@pytest.mark.long
def test_modules_of_the_current_folder_are_found_by_the_installed_command(
    command: Command, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "my_acts.py").write_text("from torch.nn import ReLU as Fine\nBroken = 3\n")
    # What pip writes for a console script: its own folder comes first on the path, not this one.
    script = tmp_path / "bin" / "adarelu-sweep"
    script.parent.mkdir()
    script.write_text("from adarelu_sweep.cli.main import main\nmain()\n")

    def call(activation: str, verb: str = "validate", folder: Path = work) -> Any:
        arguments = [verb, EXAMPLE / "study.toml", "--set", f"matrix.activation={activation}"]
        return subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env=command.environment,
        )

    assert call("my_acts:Fine").returncode == 0
    for verb in ("validate", "launch"):
        broken = call("my_acts:Broken", verb)
        assert broken.returncode == 2
        assert broken.stderr.startswith("Error: activation my_acts:Broken: TypeError: ")
        assert len(broken.stderr.splitlines()) == 1
    elsewhere = call("my_acts:Fine", folder=tmp_path)
    assert elsewhere.returncode == 2
    assert "there is no package 'my_acts'" in elsewhere.stderr
    assert json.loads(command.succeed("list", "--json")) == []


@pytest.mark.long
def test_a_resume_where_the_code_is_gone_fails_no_trial(command: Command, tmp_path: Path) -> None:
    own = "matrix.activation={name='tests:Swish', beta=2.0}"
    study = read_study(EXAMPLE / "study.toml", ["matrix.network=vgg16", own])
    text = study.model_dump_json().replace("tests:Swish", "gone.module:Swish")
    home = Home(command.home)
    home.create()
    ledger = Ledger(home.optuna_db)
    ledger.create(
        StudyRecord(
            uid="0" * 32,
            study=Study.model_validate_json(text),
            source="",
            created="2026-01-01T00:00:00+00:00",
            version="1",
        )
    )
    ledger.close()
    done = command.run("resume", "own")
    assert done.returncode == 2
    assert "there is no package 'gone': install it" in done.stderr
    ledger = Ledger(home.optuna_db)
    assert ledger.open("own").trials() == []
    ledger.close()
