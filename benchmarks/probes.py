"""What the probes cost: epochs with probes on and off, taking turns in one process.

An epoch is what a trial does: training, evaluation, probes, checkpoint. On the CPU the processor
time of this process is compared, which other programs disturb less than the clock; on a GPU the
clock. Every pair of epochs, on and off in turns first, gives one ratio.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path

import torch

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training.device import device_name
from adarelu_sweep.training.history import EpochRecord
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import TrialSettings


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    limits = (options.train, options.test)
    dataset = ResidentDataset.load(options.dataset, options.data_dir, device, *limits)
    sizes = f"{dataset.size('train')} training and {dataset.size('test')} test images"
    print(f"`{' '.join(['python', *map(str, sys.orig_argv[1:])])}`\n")
    print(f"{date.today()}; {machine(device)}")
    print(f"{options.dataset}, {sizes}, batch {options.batch_size}, {options.precision}\n")
    print(
        "| network | width | activation | epoch, off (s) | on (s) | cost | 25 % to 75 % | pairs |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for network, activation in product(options.network, options.activation):
        off, on = measured(options, dataset, network, activation)
        ratios = [100 * (with_ / without - 1) for without, with_ in zip(off, on, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        times = f"{statistics.median(off):.3f} | {statistics.median(on):.3f}"
        print(
            f"| {network} | {options.width:g} | {activation} | {times} | {middle:+.2f} % | "
            f"{low:+.2f} to {high:+.2f} % | {len(ratios)} |",
            flush=True,
        )


def measured(
    options: argparse.Namespace, dataset: ResidentDataset, network: str, activation: str
) -> tuple[list[float], list[float]]:
    """Return the seconds of every epoch without probes and with them, after one to warm up."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        epochs = {
            probes: begun(options, dataset, network, activation, probes, Path(folder, str(probes)))
            for probes in seconds
        }
        for pair in range(options.pairs + 1):
            for probes in (False, True) if pair % 2 else (True, False):
                seconds[probes].append(timed(epochs[probes], dataset.device))
    return seconds[False][1:], seconds[True][1:]


def begun(
    options: argparse.Namespace,
    dataset: ResidentDataset,
    network: str,
    activation: str,
    probes: bool,
    folder: Path,
) -> Iterator[EpochRecord]:
    """Return the epochs of a trial that is longer than what is measured of it."""
    folder.mkdir()
    settings = TrialSettings.model_validate(
        {
            "dataset": options.dataset,
            "network": {"name": network, "width": options.width},
            "activation": activation,
            "seed": 0,
            "data": {"train_limit": options.train, "test_limit": options.test},
            "training": {
                "epochs": options.pairs + 2,
                "batch_size": options.batch_size,
                "precision": options.precision,
                "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
                "probes": probes,
            },
        }
    )
    return Trial(settings, dataset, folder).train(lambda: False)


def timed(epochs: Iterator[EpochRecord], device: torch.device) -> float:
    """Train one epoch; a trial waits for its device before it records it."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    next(epochs)
    return clock() - start


def machine(device: torch.device) -> str:
    """Say where this runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = device_name(device) if device.type == "cuda" else cpu_model()
    threads = f"{torch.get_num_threads()} threads on {cores} cores"
    return f"{where}, {threads}, torch {torch.__version__}, Python {platform.python_version()}"


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("adarelu-home/data"))
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--test", type=int, default=400, help="test images")
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--activation", nargs="+", default=["adarelu", "relu"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of epochs, on and off")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
