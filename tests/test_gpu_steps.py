"""``make bench-gpu``: what it names is there, and what is cut off is gone. No GPU is needed."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest

from adarelu_sweep.cli.bench import bench_command
from benchmarks.gpu import ROOT, TESTS, WHOLE, Step, do, missing, steps
from tests.waiting import wait_until

STEPS = steps(Path("home"))
_MEASURES = "adarelu_sweep.benchmarking.measuring"
_IMPORTED = (
    "import importlib, sys; importlib.import_module(sys.argv[1]); "
    "print(*{name.partition('.')[0] for name in sys.modules})"
)
_COLLECTED = (
    "import pytest, sys; assert pytest.main([*sys.argv[1:], '--collect-only']) == 0; "
    "print(*{name.partition('.')[0] for name in sys.modules})"
)


def packages(modules: set[str]) -> set[str]:
    """What they were installed with, by its name in the package index."""
    installed = packages_distributions()
    return {name for module in modules for name in installed.get(module, [])}


def is_gone(pid: int) -> bool:
    """Whether it has ended; where nobody takes note of that it stays listed."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_bench(step: Step) -> bool:
    return step.command[1:3] == ("adarelu_sweep", "bench")


def test_all_of_it_fits_into_its_time() -> None:
    assert sum(step.seconds for step in STEPS) < WHOLE
    for step in filter(is_bench, STEPS):
        own = float(step.command[step.command.index("--seconds") + 1])
        assert own < step.seconds


def test_the_tests_that_need_a_gpu_and_no_home_are_named() -> None:
    marked = {
        f"tests/{path.name}"
        for path in (ROOT / "tests").glob("test_*.py")
        if re.search(r"^@pytest\.mark\.gpu$", path.read_text(), re.MULTILINE)
    }
    assert {*TESTS} == marked - {"tests/test_bench.py", "tests/test_doctor.py"}


@pytest.mark.parametrize("step", [*filter(is_bench, STEPS)], ids=lambda step: step.title)
def test_bench_takes_its_arguments(step: Step) -> None:
    context = bench_command.make_context("bench", list(step.command[3:]))
    assert (ROOT / context.params["study_file"]).exists()


@pytest.mark.parametrize(
    "step",
    [step for step in STEPS if step.command[1].startswith("benchmarks.")],
    ids=lambda step: step.title,
)
def test_a_benchmark_takes_its_arguments(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", list(step.command[1:]))
    assert import_module(step.command[1]).parsed()


@pytest.mark.long
@pytest.mark.parametrize(
    "step",
    {step.command[1]: step for step in STEPS}.values(),  # one of those that run the same
    ids=lambda step: step.title,
)
def test_what_it_imports_is_among_its_needs(step: Step) -> None:
    """Of the project's dependencies; what those need is their affair."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in listed}
    if step.command[1] == "pytest":
        called = [_COLLECTED, *step.command[2:]]
    else:  # of bench the module that measures
        called = [_IMPORTED, _MEASURES if is_bench(step) else step.command[1]]
    done = subprocess.run(
        [sys.executable, "-c", *called],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    imported = {*done.stdout.splitlines()[-1].split()}
    assert "torch" in imported
    assert packages(imported) & declared <= packages({"torch", *step.needs})


def test_what_is_unpacked_is_not_missing(tmp_path: Path) -> None:
    """A module that is one file, too."""
    step = Step("", 1, (), ("torch", "own_package", "own_module"))
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    assert missing(step, [str(tmp_path)]) == ["own_module"]
    (tmp_path / "own_module.py").touch()
    assert missing(step, [str(tmp_path)]) == []


def test_a_step_that_is_cut_off_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its children make of SIGTERM, and whichever group they are in."""
    stubborn = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    )
    files = [tmp_path / "first", tmp_path / "second"]
    script = (
        "import subprocess, sys, time\n"
        "print('so far', flush=True)\n"
        f"for group, name in ((None, {str(files[0])!r}), (0, {str(files[1])!r})):\n"
        f"    subprocess.Popen([sys.executable, '-c', {stubborn!r}, name], process_group=group)\n"
        "time.sleep(600)\n"
    )
    do(Step("", 3, ("-c", script)), 3, dict(os.environ))
    said = capsys.readouterr().out
    assert "so far\n" in said
    assert "given up after 3 s" in said
    assert "exit code -15" in said
    pids = [int(file.read_text()) for file in files]
    wait_until(lambda: all(map(is_gone, pids)), seconds=5)
