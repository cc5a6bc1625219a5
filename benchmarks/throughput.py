"""Training throughput of the package against a plain PyTorch loop, taking turns in one process.

Both train the same network on the same images at the same batch size. The plain loop computes in
fp32 whatever the package is asked for, unless ``--peer-precision`` says otherwise: for the rest see
``adarelu-sweep bench``, which shares what is timed. A turn is ``--batches`` batches; the first turn
of each warms up and is not counted.
"""

import argparse
import statistics
from datetime import date
from itertools import product
from pathlib import Path

import torch

from adarelu_sweep.benchmarking.contestants import Lanes, PlainLoop
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.training.settings import TrialSettings
from benchmarks.bare import bare_trial
from benchmarks.machine import machine


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    arrays = few(read(options.dataset, options.data_dir), options.batches * options.batch_size)
    print(f"{date.today()}; {machine(device)}")
    print(f"{options.dataset}, batch {options.batch_size}, peer in {options.peer_precision}\n")
    print(
        "| network | width | activation | precision | plain (images/s) | package | ratio | spread |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    cases = product(options.network, options.precision, options.activation)
    for network, precision, activation in cases:
        row = measured(
            options,
            arrays,
            bare_trial(
                options.dataset, network, options.width, activation, options.batch_size, precision
            ),
            device,
        )
        print(f"| {network} | {options.width:g} | {activation} | {precision} | {row} |", flush=True)


def few(arrays: Arrays, images: int) -> Arrays:
    """Return the first images of a data set, as many as a turn takes."""
    return Arrays(arrays.x_train[:images], arrays.y_train[:images], arrays.x_test, arrays.y_test)


def measured(
    options: argparse.Namespace, arrays: Arrays, wanted: TrialSettings, device: torch.device
) -> str:
    """Return a row: the medians in images a second, their ratio, and the ratio's quartiles."""
    package = Lanes(wanted, ResidentDataset(arrays, device))
    bf16 = options.peer_precision == "bf16"
    plain = PlainLoop(wanted, arrays, device, options.loaders, bf16=bf16)
    contestants = (plain, package)
    pairs = [
        [contestant.train(options.batches) for contestant in contestants]
        for _ in range(options.rounds + 1)
    ][1:]
    ratios = [ours / theirs for theirs, ours in pairs]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    theirs, ours = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    return f"{theirs:.0f} | {ours:.0f} | {ratio:.2f} | {low:.2f} to {high:.2f}"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The package against a plain PyTorch loop.")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("adarelu-home/data"))
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--activation", nargs="+", default=["relu", "adarelu"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--peer-precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="in one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loaders", type=int, default=2, help="processes of the plain DataLoader")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
