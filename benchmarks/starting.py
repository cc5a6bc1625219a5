"""How long the command takes to start, and how much memory its processes hold.

The peers are processes that import what the supervisor and a worker import, and do nothing else;
they take turns with the command. A launch runs until its first trial starts: the supervisor's
imports and the worker's come one after the other there. With ``--data-dir`` and ``--dataset`` the
study trains on a data set from there, copied anew for every launch, so that none is prepared.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil
import torch

from benchmarks.machine import machine

STUDY = """
name = "start"
[matrix]
dataset = "DATASET"
network = { name = "vgg16_bn", width = 0.25 }
activation = "adarelu"
seeds = 1
[training]
epochs = 1000
[report]
figures = false
"""
LIMITS = """
[data]
train_limit = 1000
test_limit = 400
"""

# What is imported until the first trial starts, and by then in the background, for MLflow.
BEFORE = "import adarelu_sweep.cli.sweeps, adarelu_sweep.operating.sweep"
BESIDE = ", adarelu_sweep.tracking.mlflow_tracker"
# torch's optimizers import its compiler, and the digits come with scikit-learn.
WORKER = "import torch, adarelu_sweep.launching.tasks, torch._dynamo, sklearn.datasets"
SETTLED = 12  # epochs, after which the supervisor has reached its MLflow server
HOLD = "; import sys; print('up', flush=True); sys.stdin.read()"


def main() -> None:
    """Take turns, and print a Markdown table."""
    options = parsed()
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.toml"
        limits = "" if options.data_dir is None else LIMITS
        path.write_text(STUDY.replace("DATASET", options.dataset) + limits)
        for turn in range(options.rounds):
            times.setdefault("--help", []).append(whole("--help"))
            imports = 0.0
            for name, code in (("", BEFORE), ("supervisor", BEFORE + BESIDE), ("worker", WORKER)):
                took, held = importing(code)
                if name:
                    memory.setdefault(f"{name}, imports alone", []).append(held)
                if code != BEFORE + BESIDE:
                    imports += took
            times.setdefault("imports of supervisor and worker", []).append(imports)
            home, data = Path(folder) / f"home-{turn}", Path(folder) / f"data-{turn}"
            if options.data_dir is not None:
                data.mkdir()
                shutil.copy(options.data_dir / f"{options.dataset}.npz", data)
                os.sync()
            took, held = launching(path, home, data)
            shutil.rmtree(data, ignore_errors=True)
            times.setdefault("launch to the first trial", []).append(took)
            times.setdefault("the same, over imports", []).append(took - imports)
            for name, megabytes in held.items():
                memory.setdefault(f"{name}, in a sweep", []).append(megabytes)
    print(f"{date.today()}; {machine(torch.device('cpu'))}; {options.rounds} rounds\n")
    print("| what | median | spread |\n| --- | --- | --- |")
    for what, seconds in times.items():
        print(f"| {what} | {statistics.median(seconds):.2f} s | {spread(seconds, '.2f')} |")
    for what, megabytes in memory.items():
        print(f"| {what} | {statistics.median(megabytes):.0f} MB | {spread(megabytes, '.0f')} |")


def spread(values: list[float], form: str) -> str:
    """Return the least and the largest."""
    return f"{min(values):{form}} to {max(values):{form}}"


def whole(*arguments: str) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "adarelu_sweep", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def importing(code: str) -> tuple[float, float]:
    """Return the seconds of imports, from the start of the process, and the MB held then."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code + HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    took = time.perf_counter() - start
    held = own_memory(process.pid)
    process.communicate()
    return took, held


def launching(path: Path, home: Path, data: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds until the first trial starts, and the MB held while it trains."""
    place = ["--home", str(home)]
    given = ["--data-dir", str(data)] if data.exists() else []
    command = ["launch", str(path), "--workers", "1", *given, *place]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "adarelu_sweep", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    took, held = 0.0, {}
    for line in process.stderr:
        if " started" in line and not took:
            took = time.perf_counter() - start
        if f" epoch {SETTLED}/" in line:
            held = {"supervisor": own_memory(process.pid)}
            for child in psutil.Process(process.pid).children():
                if "adarelu_sweep.launching.worker" in child.cmdline():
                    held["worker"] = own_memory(child.pid)
            break
    process.terminate()
    process.communicate()
    subprocess.run(
        [sys.executable, "-m", "adarelu_sweep", "server", "stop", *place], capture_output=True
    )
    return took, held


def own_memory(pid: int) -> float:
    """Return the memory of a process that no file backs, in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024 / 1e6


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, help="has DATASET.npz, which is copied")
    parser.add_argument("--dataset", default="digits")
    return parser.parse_args()


if __name__ == "__main__":
    main()
