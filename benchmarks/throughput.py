"""Training throughput of the package against a plain PyTorch loop, taking turns in one process.

Both train the same network on the same images at the same batch size. The plain loop computes in
fp32 whatever the package is asked for, unless ``--peer-precision`` says otherwise. A turn is an
epoch of ``--batches`` batches; the first turn of each warms up and is not counted. The time of the
plain loop begins with its second batch, when the loader's workers are up.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import TrialSettings
from benchmarks.machine import machine
from benchmarks.plain_loop import PlainImages, train_epoch


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    arrays = read(options.dataset, options.data_dir)
    print(f"{date.today()}; {machine(device)}")
    print(f"{options.dataset}, batch {options.batch_size}, peer in {options.peer_precision}\n")
    print(
        "| network | width | activation | precision | plain (images/s) | package | ratio | spread |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    cases = product(options.network, options.precision, options.activation)
    for network, precision, activation in cases:
        row = measured(options, arrays, settings(options, network, activation, precision), device)
        print(f"| {network} | {options.width:g} | {activation} | {precision} | {row} |", flush=True)


def settings(
    options: argparse.Namespace, network: str, activation: str, precision: str
) -> TrialSettings:
    """Return what the package is asked to train: no probes, as the peer has none."""
    return TrialSettings.model_validate(
        {
            "dataset": options.dataset,
            "network": {"name": network, "width": options.width},
            "activation": activation,
            "seed": 0,
            "data": {"train_limit": options.batches * options.batch_size, "test_limit": 32},
            "training": {
                "epochs": options.rounds + 1,
                "batch_size": options.batch_size,
                "precision": precision,
                "probes": False,
                "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
            },
        }
    )


def measured(
    options: argparse.Namespace, arrays: Arrays, wanted: TrialSettings, device: torch.device
) -> str:
    """Return a row: the medians in images a second, their ratio, and the ratio's quartiles."""
    with tempfile.TemporaryDirectory() as folder:
        package = package_speeds(arrays, wanted, device, Path(folder))
        plain = plain_speeds(options, arrays, wanted, device)
        pairs = [(next(plain), next(package)) for _ in range(options.rounds + 1)][1:]
    ratios = [ours / theirs for theirs, ours in pairs]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    theirs, ours = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    return f"{theirs:.0f} | {ours:.0f} | {ratio:.2f} | {low:.2f} to {high:.2f}"


def package_speeds(
    arrays: Arrays, wanted: TrialSettings, device: torch.device, folder: Path
) -> Iterator[float]:
    """Train a trial, yielding the images a second of every epoch's training."""
    dataset = ResidentDataset(arrays, device, wanted.data.train_limit, wanted.data.test_limit)
    for record in Trial(wanted, dataset, folder).train(lambda: False):
        yield record.metrics["images_per_second"]


def plain_speeds(
    options: argparse.Namespace, arrays: Arrays, wanted: TrialSettings, device: torch.device
) -> Iterator[float]:
    """Train with the plain loop, yielding the images a second of every epoch."""
    images = PlainImages(arrays, options.batches * options.batch_size)
    loader = DataLoader(
        images,
        options.batch_size,
        shuffle=True,
        num_workers=options.loaders,
        pin_memory=device.type == "cuda",
    )
    network = build_network(
        wanted.network,
        wanted.activation,
        arrays.channels,
        arrays.num_classes,
        torch.Generator().manual_seed(0),
    ).to(device)
    optimizer = torch.optim.SGD(network.parameters(), **wanted.training.optimizer.arguments)
    while True:
        steps = train_epoch(network, loader, optimizer, device, options.peer_precision == "bf16")
        next(steps)
        began = time.perf_counter()
        count = sum(1 for _ in steps)
        yield count * options.batch_size / (time.perf_counter() - began)


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
