"""What everything around the training costs an epoch: a sweep against the bare trainer.

The sweep has probes, checkpoints and a real MLflow server; the bare trainer has the same network
on the same data with none of it, in a process like a worker's. They take turns; what is compared is
the time from the end of the first epoch to that of the last, by the clock. The start of either is
another row.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.home import Home
from adarelu_sweep.launching.local import environment
from adarelu_sweep.placing.gpus import choose_gpus
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.placing.slots import make_slots
from adarelu_sweep.processes import own_command
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.training.device import training_device
from adarelu_sweep.training.history import CHECKPOINT, HISTORY, History
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.repeating import finish
from adarelu_sweep.training.schedule import learning_rate
from adarelu_sweep.training.sealed import read_entry
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import batch_order
from benchmarks.machine import machine

STUDY = """
name = "whole"
[matrix]
dataset = "{dataset}"
network = {{ name = "{network}", width = {width} }}
activation = "{activation}"
seeds = 1
[data]
train_limit = {images}
test_limit = {tested}
[training]
epochs = {epochs}
optimizer = {{ name = "sgd", lr = 0.001, momentum = 0.9 }}
[report]
figures = false
register_model = false
"""


def main() -> None:
    """Take turns, and print a Markdown table; or be the bare trainer."""
    options = parsed()
    if options.bare:
        bare(TrialSettings.model_validate_json(sys.stdin.read()), options.data_dir)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # with the server stopped
    ratios, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.toml"
        tested = max(1, options.images // 6)  # as MNIST and CIFAR have it
        path.write_text(STUDY.format(**vars(options), tested=tested))
        (settings,) = (cell.settings for cell in cells(read_study(path)))
        for turn in range(options.rounds):
            turns = (options.gpus, settings, options.data_dir)
            if turn % 2:
                theirs.append(bare_epoch(*turns))
            ours.append(sweep_epoch(path, Path(folder) / f"home-{turn}", options))
            if not turn % 2:
                theirs.append(bare_epoch(*turns))
            ratios.append(ours[-1] / theirs[-1])
    where = torch.device("cpu" if options.gpus == "none" else "cuda")
    print(f"{date.today()}; {machine(where)}")
    print(f"{options.images:,} images of {options.dataset} an epoch, {options.epochs} epochs\n")
    print("| network | bare epoch (s) | in a sweep (s) | ratio | spread |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| {options.network}, width {options.width:g}, {options.activation} | "
        f"{statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | "
        f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
    )


def sweep_epoch(path: Path, home: Path, options: argparse.Namespace) -> float:
    """Return the seconds of an epoch within a sweep, from its end to the end of the next."""
    command = own_command("adarelu_sweep")
    place = ["--home", str(home)]
    where = ["--gpus", options.gpus, "--workers", "1", "--data-dir", str(options.data_dir)]
    try:
        subprocess.run(
            [*command, "launch", str(path), *place, *where],
            check=True,
            capture_output=True,
        )
    finally:
        subprocess.run([*command, "server", "stop", *place], check=True, capture_output=True)
    history = History.parse(read_entry(Home(home).trial_folder("whole", 0) / CHECKPOINT, HISTORY))
    first, last = history.epochs[0].timestamp, history.epochs[-1].timestamp
    return (last - first) / 1000 / (len(history.epochs) - 1)


def bare_epoch(gpus: str, settings: TrialSettings, data_dir: Path) -> float:
    """Return the same of the bare trainer, in the environment of a worker."""
    chosen, _ = choose_gpus(gpus)
    slot = make_slots(chosen[:1], 1, available_cores())[0]
    path = (str(Path.cwd()), os.environ.get("PYTHONPATH"))
    done = subprocess.run(
        [*own_command("benchmarks.whole_sweep"), "--bare", "--data-dir", str(data_dir)],
        input=settings.model_dump_json(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(slot) | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    seconds: float = json.loads(done.stdout)
    return seconds


def bare(settings: TrialSettings, data_dir: Path) -> None:
    """Train and evaluate, and nothing else; print the seconds of an epoch."""
    training = settings.training.model_copy(update={"probes": False})
    settings = settings.model_copy(update={"training": training})
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cudnn.benchmark = True
    data = settings.data
    dataset = ResidentDataset.load(
        settings.dataset, data_dir, training_device(), data.train_limit, data.test_limit
    )
    lane = Lane(settings, dataset)
    ends = []
    for epoch in range(training.epochs):
        order = batch_order(settings.seed, epoch, dataset.size("train"))
        base = float(training.optimizer.arguments["lr"])
        rate = learning_rate(training.schedule, base, epoch, training.epochs)
        with lane.turn():
            finish(lane.train_epoch(order, rate, None, lambda: None))
            finish(lane.evaluate(lambda: None))
        ends.append(time.perf_counter())
    print((ends[-1] - ends[0]) / (len(ends) - 1))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which study it is, and where it runs."""
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path("adarelu-home/data"))
    parser.add_argument("--network", default="vgg16_bn")
    parser.add_argument("--activation", default="adarelu")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--gpus", default="none")


if __name__ == "__main__":
    main()
