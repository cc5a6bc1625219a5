"""The cores of a CPU as one slot with all threads, or as a slot of one thread each.

Slots are processes with a worker's surroundings, each with a network of its own in training; what
counts is images a second, of all slots together. Beside them the plain PyTorch loop with all
threads. They take turns, and the first turn of each is not counted.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import product
from pathlib import Path

import torch

from adarelu_sweep.benchmarking.contestants import Lanes, PlainLoop
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.processes import own_command
from adarelu_sweep.training.settings import TrialSettings
from benchmarks.bare import bare_trial
from benchmarks.machine import machine

IMAGES = 512  # that are trained on, again and again


class Trainer:
    """A process that trains when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def begin(self, batches: int) -> None:
        """Have it train for some batches."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()

    def speed(self) -> float:
        """Wait until it is done, and return its images/s."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table; or be a trainer."""
    options = parsed()
    if options.trainer:
        train(options.trainer == "plain")
        return
    torch.set_num_threads(options.cores)
    print(f"{date.today()}; {machine(torch.device('cpu'))}")
    print(f"CIFAR's shape, batch {options.batch_size}; images/s, medians, quartiles of ratios\n")
    print(
        f"| network | width | activation | plain loop | 1 x {options.cores} threads | over plain ",
        end="",
    )
    print(f"| {options.cores} x 1 thread | over plain | over 1 x {options.cores} |")
    print("| --- " * 9 + "|", flush=True)
    for network, width, activation in product(options.network, options.width, options.activation):
        row = measured(
            options, bare_trial("cifar10", network, width, activation, options.batch_size)
        )
        print(f"| {network} | {width:g} | {activation} | {row} |", flush=True)


def measured(options: argparse.Namespace, wanted: TrialSettings) -> str:
    """Return a row: medians in images a second, and ratios of the same round."""
    cores = options.cores
    divisions = {"plain": [cores], "whole": [cores], "divided": [1] * cores}
    speeds: dict[str, list[float]] = {name: [] for name in divisions}
    with ExitStack() as stack:
        teams = {
            name: [
                stack.enter_context(trainer(wanted, threads, plain=name == "plain"))
                for threads in division
            ]
            for name, division in divisions.items()
        }
        order = list(teams)
        for _ in range(options.rounds + 1):
            order.append(order.pop(0))  # none always follows the same one
            for name in order:
                for each in teams[name]:
                    each.begin(options.batches)
                # All have the same to do, so the slowest says how long that took.
                slowest = min(each.speed() for each in teams[name])
                speeds[name].append(len(teams[name]) * slowest)
    plain, whole, divided = (speeds[name][1:] for name in divisions)
    figures = [f"{statistics.median(plain):.0f}", f"{statistics.median(whole):.0f}"]
    figures += [ratio(whole, plain), f"{statistics.median(divided):.0f}"]
    return " | ".join([*figures, ratio(divided, plain), ratio(divided, whole)])


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the ratios, and their quartiles."""
    each = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


@contextmanager
def trainer(wanted: TrialSettings, threads: int, *, plain: bool) -> Iterator[Trainer]:
    """Start a process that trains, with the surroundings that a slot's worker has."""
    how = "plain" if plain else "package"
    process = subprocess.Popen(
        [*own_command("benchmarks.cpu_slots"), "--trainer", how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(Slot(0, threads)) | {"PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdin is not None
    try:
        process.stdin.write(f"{threads}\n{wanted.model_dump_json()}\n")
        yield Trainer(process)
    finally:
        process.stdin.close()
        process.wait()


def train(plain: bool) -> None:
    """Train for as many batches as each line says, and answer with images/s."""
    threads = int(sys.stdin.readline())
    wanted = TrialSettings.model_validate_json(sys.stdin.readline())
    torch.set_num_threads(threads)
    arrays, device = random_arrays(Shape(32, 32, 3, 10), IMAGES, 10), torch.device("cpu")
    loop: PlainLoop | Lanes
    if plain:
        loop = PlainLoop(wanted, arrays, device, loaders=threads, bf16=False)
    else:
        loop = Lanes(wanted, ResidentDataset(arrays, device))
    for line in sys.stdin:
        print(loop.train(int(line)), flush=True)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="One slot with all threads, or one for each core.")
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--width", type=float, nargs="+", default=[0.25])
    parser.add_argument("--activation", nargs="+", default=["relu"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="of each slot, in one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--trainer", choices=["plain", "package"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
