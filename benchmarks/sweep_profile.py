"""Who takes the processor while a sweep runs: the CPU seconds of an epoch, by process.

The study of ``whole_sweep``, by the command as a user gives it; what its worker, the supervisor and
MLflow's server use between the end of the first epoch and that of the last is read from the system.
"""

import argparse
import subprocess
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import psutil
import torch

from adarelu_sweep.home import Home
from adarelu_sweep.processes import own_command
from adarelu_sweep.training.history import CHECKPOINT, HISTORY, History
from adarelu_sweep.training.sealed import read_entry
from benchmarks.machine import machine
from benchmarks.whole_sweep import add_options, noise, study_text

_PAUSE = 0.05  # seconds between two readings


def main() -> None:
    """Run the study once, and print a Markdown table."""
    options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        path, home = Path(folder) / "whole.toml", Path(folder) / "home"
        path.write_text(study_text(options, options.epochs))
        options.data_dir = options.data_dir or noise(Path(folder) / "data", options)
        wall, used = sweep(path, home, options)
    print(f"{date.today()}; {machine(torch.device('cpu'))}")
    print(f"{options.images:,} images of {options.dataset} an epoch\n")
    print(f"| seconds of an epoch | |\n| --- | --- |\n| by the clock | {wall:.2f} |")
    for role, seconds in sorted(used.items()):
        print(f"| CPU of {role} | {seconds:.2f} |")


def sweep(path: Path, home: Path, options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Return the seconds of an epoch by the clock, and of the CPU by who used them."""
    place = ["--home", str(home)]
    where = ["--gpus", options.gpus, "--workers", "1", "--data-dir", str(options.data_dir)]
    command = own_command("adarelu_sweep")
    launched = psutil.Popen(
        [*command, "launch", str(path), *place, *where], stderr=subprocess.DEVNULL
    )
    readings: list[tuple[float, dict[str, float]]] = []
    while launched.poll() is None:
        readings.append((time.time(), reading(launched, home)))
        time.sleep(_PAUSE)
    subprocess.run([*command, "server", "stop", *place], check=True, capture_output=True)
    history = History.parse(read_entry(Home(home).trial_folder("whole", 0) / CHECKPOINT, HISTORY))
    first, last = (history.epochs[index].timestamp / 1000 for index in (0, -1))
    epochs = len(history.epochs) - 1
    before, after = (
        next(used for when, used in readings if when >= moment) for moment in (first, last)
    )
    return (last - first) / epochs, {role: (after[role] - before[role]) / epochs for role in after}


def reading(launched: psutil.Popen, home: Path) -> dict[str, float]:
    """Return the CPU seconds that each kind of process has used so far."""
    used: dict[str, float] = defaultdict(float)
    for process in (launched, *launched.children(recursive=True), *server_of(home)):
        try:
            times, line = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        role = "MLflow's server" if "mlflow" in line else "the supervisor"
        if "launching.worker" in line:
            role = "the worker"
        used[role] += times.user + times.system
    return used


def server_of(home: Path) -> list[psutil.Process]:
    """Return the processes of the home's server, which is nobody's child."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "server" in (process.info["cmdline"] or []) and str(home) in str(process.info["cmdline"])
    ]
    return [*found, *(child for process in found for child in process.children(recursive=True))]


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--epochs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
