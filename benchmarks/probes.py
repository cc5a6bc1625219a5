"""What the probes cost an epoch: a few batches with probes and without, taking turns.

Both train and evaluate equal networks in one process. The differences are scaled to an epoch of
the whole data set: its training batches and its evaluation batches. On the CPU the processor time
of this process is compared, which other programs disturb less than the clock; on a GPU the clock.

What happens once an epoch (counting the zeros of one batch, reading the counts) happens here once
in every few batches, so the cost is stated too high rather than too low.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from datetime import date
from itertools import product
from math import ceil, sqrt
from pathlib import Path

import torch

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.repeating import finish
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import batch_order
from benchmarks.machine import machine


@dataclass(frozen=True)
class Seconds:
    """What a few batches took."""

    training: float
    evaluation: float
    """With the reading of the probes, if there are any."""


class Bench:
    """One network in training, twice: with probes and without."""

    def __init__(self, settings: TrialSettings, dataset: ResidentDataset) -> None:
        self.dataset = dataset
        self.order = batch_order(settings.seed, 0, dataset.size("train"))
        self.lanes = {
            probes: Lane(
                settings.model_copy(
                    update={"training": settings.training.model_copy(update={"probes": probes})}
                ),
                dataset,
            )
            for probes in (True, False)
        }

    def measure(self, probes: bool) -> Seconds:
        """Train and evaluate a few batches."""
        lane = self.lanes[probes]
        with lane.turn():
            start = self._now()
            finish(lane.train_epoch(self.order, 0.001, None, lambda: None))
            trained = self._now()
            finish(lane.evaluate(lambda: None))
            lane.probes.read()
            return Seconds(trained - start, self._now() - trained)

    def _now(self) -> float:
        if self.dataset.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    arrays = read(options.dataset, options.data_dir)
    print(f"{date.today()}; {machine(device)}")
    print(f"{options.dataset}, batch {options.batch_size}, {options.precision}\n")
    print("| network | width | activation | epoch (s) | cost | standard error | 25 % to 75 % | n |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for network, activation in product(options.network, options.activation):
        row = measured(options, arrays, network, activation)
        print(f"| {network} | {options.width:g} | {activation} | {row} |", flush=True)


def measured(options: argparse.Namespace, arrays: Arrays, network: str, activation: str) -> str:
    """Return a row: an epoch's seconds without probes, and the probes' cost in percent."""
    settings = TrialSettings.model_validate(
        {
            "dataset": options.dataset,
            "network": {"name": network, "width": options.width},
            "activation": activation,
            "seed": 0,
            "data": {},
            "training": {
                "epochs": 1,
                "batch_size": options.batch_size,
                "precision": options.precision,
                "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
            },
        }
    )
    few = options.batches * options.batch_size
    bench = Bench(settings, ResidentDataset(arrays, options.device, few, few))
    per_epoch = {
        split: ceil(len(labels) / options.batch_size) / options.batches
        for split, labels in (("train", arrays.y_train), ("test", arrays.y_test))
    }

    def epoch(seconds: Seconds) -> float:
        return per_epoch["train"] * seconds.training + per_epoch["test"] * seconds.evaluation

    for probes in (True, False):  # to warm up
        bench.measure(probes)
    off, on = [], []
    for turn in range(options.pairs):
        for probes in (False, True) if turn % 2 else (True, False):
            (on if probes else off).append(epoch(bench.measure(probes)))
    whole = statistics.median(off)
    costs = [100 * (b - a) / whole for a, b in zip(off, on, strict=True)]
    low, cost, high = statistics.quantiles(costs, n=4)
    error = 1.2533 * (high - low) / 1.349 / sqrt(len(costs))  # of a median, of normal deviations
    return f"{whole:.1f} | {cost:+.2f} % | {error:.2f} % | {low:+.2f} to {high:+.2f} % | {len(off)}"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What the probes cost an epoch.")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("adarelu-home/data"))
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--activation", nargs="+", default=["adarelu", "relu"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batches", type=int, default=4, help="of each kind in one measurement")
    parser.add_argument("--pairs", type=int, default=100, help="measurements of each kind")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
