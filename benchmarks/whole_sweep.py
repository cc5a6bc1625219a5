"""What everything around the training costs an epoch: a sweep against the bare trainer.

The sweep is a real one, with probes, checkpoints and a real MLflow server. Its worker trains the
same network without any of that, too, in turns with its trial (``alternating``): what is compared
is an epoch of the trial, from its beginning to that of the next, while the checkpoint of the one
before is written and its metrics are sent, and an epoch of the bare trainer with nothing beside it.
"""

import argparse
import io
import os
import statistics
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Launcher, Report
from adarelu_sweep.launching.local import LocalLauncher
from adarelu_sweep.operating.sweep import Machine, launch
from adarelu_sweep.placing.places import Place
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.supervising.running import Screen
from adarelu_sweep.tracking.server import stop_server
from benchmarks.alternating import ORDERS, Orders
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
    """Run a study, and print a Markdown table."""
    options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        measured = rounds(Path(folder), options)
    swept, bare = zip(*measured, strict=True)
    low, middle, high = statistics.quantiles((s / b for s, b in measured), n=4)
    print(f"{date.today()}; {machine(torch.device('cpu' if options.gpus == 'none' else 'cuda'))}")
    what = options.dataset if options.data_dir else "noise"
    print(f"{options.images:,} images of {what} an epoch, {options.rounds} rounds\n")
    print("| network | bare epoch (s) | in a sweep (s) | ratio | quartiles |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| {options.network}, width {options.width:g}, {options.activation} | "
        f"{statistics.median(bare):.2f} | {statistics.median(swept):.2f} | "
        f"{middle:.3f} | {low:.3f} to {high:.3f} |"
    )


def rounds(folder: Path, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return for every round the seconds of an epoch in a sweep, and of a bare one."""
    data_dir = options.data_dir or noise(folder / "data", options)
    path, results = folder / "whole.toml", folder / "results"
    # Every second epoch is measured. The first is told of after the second, the last two at once.
    path.write_text(study_text(options, epochs=2 * options.rounds + 2))
    study = read_study(path)
    (settings,) = (cell.settings for cell in cells(study))
    os.environ[ORDERS] = Orders(
        settings=settings, data_dir=data_dir, rounds=options.rounds, results=results
    ).model_dump_json()
    search = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))  # for the worker
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    where = Alternating(gpus=options.gpus, workers=1, data_origin=str(data_dir))
    home = Home(folder / "home")
    screen = Screen(lambda *_: None, Console(file=io.StringIO()))  # the report is another matter
    try:
        _, ending = launch(study, path.read_text(), home, where, None, screen)
    finally:
        stop_server(home)
    if ending.state != "complete":
        raise SystemExit(f"the sweep is {ending.state}")
    lines = [line.split() for line in results.read_text().splitlines()]
    return [(float(swept), float(bare)) for swept, bare in lines]


@dataclass(frozen=True)
class Alternating(Machine):
    """A machine whose workers train the bare trainer's epochs, too."""

    def place(self, *given: Any) -> Place:  # noqa: D102
        def launcher(report: Report, logs: Path, _uid: str) -> Launcher:
            return LocalLauncher(report, logs, module="benchmarks.alternating")

        return replace(super().place(*given), launcher=launcher)


def study_text(options: argparse.Namespace, epochs: int) -> str:
    """Return the study file, with as many test images to a training image as in MNIST."""
    given = vars(options) | {"epochs": epochs, "tested": max(1, options.images // 6)}
    return STUDY.format(**given)


def noise(folder: Path, options: argparse.Namespace) -> Path:
    """Write the data set that is asked for as images of noise; return the folder."""
    folder.mkdir()
    arrays = random_arrays(Shape(32, 32, 1, 10), options.images, max(10, options.images // 6))
    npz.save(arrays, folder / f"{options.dataset}.npz")
    return folder


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which study it is, and where it runs."""
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, help="default: images of noise, which cost alike")
    parser.add_argument("--network", default="vgg16_bn")
    parser.add_argument("--activation", default="adarelu")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--gpus", default="none")


if __name__ == "__main__":
    main()
