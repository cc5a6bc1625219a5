"""Everything that only a GPU can show, in one command and under 8 minutes (``make bench-gpu``).

First the tests that need one, then the benchmarks, each in a process of its own and given up after
its time. It needs a checkout and a Python with torch; what else is missing comes from wheels, if a
folder of them is given. Prints Markdown.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
WHOLE = 470.0  # seconds, all steps together
# Those that need a GPU and neither a home nor a server. Each is named, because looking for them
# imports all test files and what those need.
TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("kernels", "adarelu", "pack", "tasks", "probes", "saving"),
        *("augmentation", "datasets", "prepared"),
    )
)
_GRACE = 10.0  # seconds for a step that is cut off, after SIGTERM
_TRAINING = ("numpy", "pydantic", "safetensors", "psutil", "filelock", "pynvml")
_MEASURING = (*_TRAINING, "torchvision", "PIL")  # with the plain loop
_BENCH = (*_MEASURING, "click", "rich")
_SWEEP = (
    *(*_TRAINING, "click", "rich", "mlflow", "optuna", "sqlalchemy"),
    *("jinja2", "matplotlib", "pandas", "scipy", "sklearn"),
)


@dataclass(frozen=True)
class Step:
    """One process, and what it needs beside torch."""

    title: str
    seconds: float
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


def steps(home: Path) -> list[Step]:
    """Return what is done, the most important first.

    CIFAR-100's networks cost what CIFAR-10's do, and packs of MNIST's gain what CIFAR-10's gain.
    Steps of ``bench`` end by themselves, and have 20 seconds beside that for two starts of Python.
    """
    return [
        Step(
            "Tests",
            70,
            ("-m", "pytest", "-q", "-m", "gpu", *TESTS),
            (*_TRAINING, "pytest", "hypothesis"),
        ),
        Step(
            "AdaReLU against ReLU",
            35,
            # So many in a turn that its beginning and its end do not count.
            (
                "-m",
                "benchmarks.activation",
                "--device",
                "cuda",
                "--repeats",
                "20",
                "--rounds",
                "20",
            ),
            ("numpy", "pydantic", "pynvml"),
        ),
        _bench("paper-cifar10 in fp32", 54, home, "paper-cifar10", "fp32"),
        _bench("paper-cifar10 in bf16", 54, home, "paper-cifar10", "bf16"),
        _bench("paper-mnist in fp32", 24, home, "paper-mnist", "fp32", "--pack", "1"),
        _bench("paper-mnist in bf16", 24, home, "paper-mnist", "bf16", "--pack", "1"),
        Step(
            "The paper, and the matrix product",
            20,
            ("-m", "benchmarks.paper", "--home", str(home), "--gpus", "0", "--device", "cuda"),
            _TRAINING,
        ),
        _bench(
            "paper-cifar10 in fp32, deterministic",
            15,
            home,
            "paper-cifar10",
            "fp32",
            *("--set", "training.deterministic=true", "--set", 'matrix.activation=["relu"]'),
            *("--pack", "1"),
        ),
        Step(
            "Stacked weights against networks in turns",
            35,
            (
                *("-m", "benchmarks.layouts", "--device", "cuda", "--width", "1"),
                *("--precision", "fp32", "bf16", "--seeds", "4", "8"),
            ),
            _MEASURING,
        ),
        Step(
            "A whole sweep",
            36,
            ("-m", "benchmarks.whole_sweep", "--gpus", "0", "--images", "20000", "--rounds", "2"),
            _SWEEP,
        ),
    ]


def _bench(title: str, seconds: int, home: Path, study: str, precision: str, *more: str) -> Step:
    command = (
        *("-m", "adarelu_sweep", "bench", "--gpus", "0", "--workers", "1", "--home", str(home)),
        *("--study", str(Path("studies") / f"{study}.toml"), "--seconds", str(seconds)),
        *("--set", f"training.precision={precision}", *more),
    )
    return Step(title, seconds + 20, command, _BENCH)


def main() -> None:
    """Do the steps."""
    options = parsed()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        search = [str(ROOT)]
        if options.wheels:
            search.append(unpacked(options.wheels, Path(folder) / "packages"))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(search)}
        print(f"# What one GPU shows\n\n{date.today()}; {machine_line(environment)}\n", flush=True)
        coming = steps(Path(folder) / "home")
        while coming:
            step = coming.pop(0)
            left = WHOLE - (time.monotonic() - began)
            print(f"## {step.title}\n\n`python {' '.join(step.command)}`\n", flush=True)
            if absent := missing(step, search):
                print(f"not run: {', '.join(absent)} is not here\n", flush=True)
            elif left < 10:
                print("not run: the time is over\n", flush=True)
            else:
                spared = left - sum(later.seconds for later in coming)  # by those before
                do(step, min(left, max(step.seconds, spared)), environment)
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)


def machine_line(environment: dict[str, str]) -> str:
    """Say where this runs, in a process that is gone before the first step."""
    code = (
        "import torch; from benchmarks.machine import machine; "
        "torch.cuda.is_available() or exit('torch finds no GPU here'); "
        "print(machine(torch.device('cuda')))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def unpacked(wheels: Path, folder: Path) -> str:
    """Install all wheels of a folder beside everything else, and return where."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*command, "--target", str(folder), *map(str, sorted(wheels.glob("*.whl")))], check=True
    )
    return str(folder)


def missing(step: Step, search: list[str]) -> list[str]:
    """Return the packages that a step needs and that are neither installed nor unpacked."""
    return [
        name
        for name in step.needs
        if PathFinder.find_spec(name, search) is None and find_spec(name) is None
    ]


def do(step: Step, seconds: float, environment: dict[str, str]) -> None:
    """Run a step in a session of its own, and print what it says, to its end or to its time."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment,
            stdout=out,  # no pipes: one that a grandchild holds has no end
            stderr=err,
            start_new_session=True,
        )
        given_up = ""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            given_up = f"given up after {seconds:.0f} s\n"
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        finally:
            end_session(process.pid)
        code = process.wait()
        print(_fenced(step, _content(out)))
        if code:
            print(f"```\n{(_content(err) + given_up).strip()[-3000:]}\n```\n")
    print(f"({time.monotonic() - began:.0f} s, exit code {code})\n", flush=True)


def end_session(session: int) -> None:
    """Kill all processes of a session: on the GPU they would be in the way of the next step."""
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError, PermissionError):
            if os.getsid(pid := int(entry.name)) == session:
                os.kill(pid, signal.SIGKILL)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _fenced(step: Step, said: str) -> str:
    """Return what a step said as Markdown; the benchmarks write it themselves."""
    markdown = step.command[1].startswith("benchmarks.")
    return said if markdown else f"```\n{said}```\n"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of what is not installed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
