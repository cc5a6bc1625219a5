"""Everything that only a GPU can show, in one command and under 8 minutes (``make bench-gpu``).

First the tests that need one, then the benchmarks, each in a process of its own and given up after
its time. It needs a checkout and a Python with torch; what else is missing comes from wheels, if a
folder of them is given. Prints Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHOLE = 470.0  # seconds, all steps together
BENCH = ("-m", "adarelu_sweep", "bench", "--gpus", "0", "--workers", "1")
_DETERMINISTIC = ("--set", "training.deterministic=true")
PAPER = ("paper-mnist", "paper-cifar10", "paper-cifar100")


@dataclass(frozen=True)
class Step:
    """One process, and what it needs beside torch."""

    title: str
    seconds: float
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


def steps(home: Path) -> list[Step]:
    """Return what is done, the most important first."""
    place = ("--home", str(home))
    study = [ROOT / "studies" / f"{name}.toml" for name in PAPER]
    return [
        Step("Tests", 120, ("-m", "pytest", "-q", "-m", "gpu", "tests"), ("pytest", "hypothesis")),
        Step("AdaReLU against ReLU", 60, ("-m", "benchmarks.activation", "--device", "cuda")),
        Step("Matrix product", 30, ("-m", "benchmarks.gpu", "--matmul")),
        *(
            Step(
                f"Training, {precision}",
                75,
                (*BENCH, *place, "--precision", precision, *_named("relu", "adarelu")),
            )
            for precision in ("fp32", "bf16")
        ),
        *(
            Step(
                f"{path.stem} in {precision}",
                45,
                (*BENCH, *place, "--study", str(path), "--rounds", "2", *_set(precision)),
            )
            for path in study
            for precision in ("fp32", "bf16")
        ),
        Step(
            "paper-cifar10 in fp32, deterministic",
            45,
            (*BENCH, *place, "--study", str(study[1]), "--rounds", "2", *_DETERMINISTIC),
        ),
        Step(
            "A whole sweep",
            60,
            ("-m", "benchmarks.whole_sweep", "--gpus", "0", "--dataset", "digits", "--rounds", "1"),
            ("mlflow", "optuna"),
        ),
    ]


def _named(*activations: str) -> tuple[str, ...]:
    return tuple(word for name in activations for word in ("--activation", name))


def _set(precision: str) -> tuple[str, str]:
    return "--set", f"training.precision={precision}"


def main() -> None:
    """Do the steps, or be the one that is no module of its own."""
    options = parsed()
    if options.matmul:
        matmul()
        return
    began, where = time.monotonic(), machine_line()
    print(f"# What one GPU shows\n\n{date.today()}; {where}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        search = [str(ROOT)]
        if options.wheels:
            search.append(unpacked(options.wheels, Path(folder) / "packages"))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(search)}
        for step in steps(Path(folder) / "home"):
            left = WHOLE - (time.monotonic() - began)
            print(f"## {step.title}\n\n`python {' '.join(step.command)}`\n", flush=True)
            if absent := missing(step, search):
                print(f"not run: {', '.join(absent)} is not here\n", flush=True)
            elif left < 10:
                print("not run: the time is over\n", flush=True)
            else:
                do(step, min(step.seconds, left), environment)
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)


def machine_line() -> str:
    """Say where this runs, in a process that is gone before the first step."""
    code = (
        "import torch; from benchmarks.machine import machine; "
        "torch.cuda.is_available() or exit('torch finds no GPU here'); "
        "print(machine(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
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
    there = {path.name for folder in search[1:] for path in Path(folder).iterdir()}
    return [name for name in step.needs if name not in there and find_spec(name) is None]


def do(step: Step, seconds: float, environment: dict[str, str]) -> None:
    """Run a step, and print what it says."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *step.command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # the commands end their children at that
        out, err = process.communicate()
        err += f"\ngiven up after {seconds:.0f} s"
    print(out)
    if process.returncode:
        print(f"```\n{err.strip()[-3000:]}\n```\n")
    print(f"({time.monotonic() - began:.0f} s, exit code {process.returncode})\n", flush=True)


def matmul() -> None:
    """Print what the card's matrix units do at best, in TFLOP/s."""
    import torch

    size, rounds = 8192, 10
    print("| product of 8192 x 8192 matrices | TFLOP/s |\n| --- | --- |")
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32 as TF32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        for _ in range(3):
            a @ b
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(rounds):
            a @ b
        end.record()
        torch.cuda.synchronize()
        seconds = start.elapsed_time(end) / 1000 / rounds
        print(f"| {name} | {2 * size**3 / seconds / 1e12:.0f} |")


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of what is not installed")
    parser.add_argument("--matmul", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
