"""What a trial costs beside its work: many trials of about 10 ms on 2 slots, by a real sweep.

The peer is the work itself: the same trials, trained by ``Trial`` one after the other in as many
processes, each with its share. Sweep and peer are timed from the first trial to the last, as the
start of either is another row; a sweep without tracking delivers to a tracker that does nothing.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.home import Home
from adarelu_sweep.operating.sweep import Machine, launch
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising import running
from adarelu_sweep.supervising.display import PlainDisplay
from adarelu_sweep.tracking.server import stop_server
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import TrialSettings
from benchmarks.machine import machine

STUDY = """
name = "tiny"
[matrix]
dataset = "digits"
network = {{ name = "vgg16", width = 0.0078125 }}
activation = ["relu", "adarelu"]
seeds = {seeds}
[data]
train_limit = 32
test_limit = 32
[training]
epochs = 1
probes = false
[report]
figures = false
register_model = false
"""


def main() -> None:
    """Take turns, and print a Markdown table."""
    options = parsed()
    print(f"{date.today()}; {machine(torch.device('cpu'))}")
    print(f"{options.trials:,} trials, {options.slots} slots, {options.rounds} rounds\n")
    seconds: dict[str, list[float]] = {"work": [], "off": [], "on": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.toml"
        path.write_text(STUDY.format(seeds=options.trials // 2))
        study = read_study(path)
        for turn in range(options.rounds):
            seconds["work"].append(work(study, Path(folder) / f"work-{turn}", options.slots))
            for tracking in ("off", "on"):
                home = Home(Path(folder) / f"{tracking}-{turn}")
                seconds[tracking].append(sweep(path, home, options.slots, tracking == "on"))
    print("| what | ms a trial | more than the work | spread |\n| --- | --- | --- | --- |")
    per_trial = {what: [1000 * s / options.trials for s in took] for what, took in seconds.items()}
    print(f"| the work itself | {statistics.median(per_trial['work']):.1f} | | |")
    for tracking in ("off", "on"):
        more = [a - b for a, b in zip(per_trial[tracking], per_trial["work"], strict=True)]
        print(
            f"| a sweep, tracking {tracking} | {statistics.median(per_trial[tracking]):.1f} | "
            f"{statistics.median(more):.1f} | {min(more):.1f} to {max(more):.1f} |"
        )


def work(study: Study, folder: Path, processes: int) -> float:
    """Return the seconds in which processes train all trials of a study, checkpoints included."""
    settings = [cell.settings for cell in cells(study)]
    shares = [settings[index::processes] for index in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(train, [share[:1] for share in shares], [folder / "first"] * processes))
        start = time.perf_counter()
        list(pool.map(train, shares, [folder] * processes))
        return time.perf_counter() - start


def train(share: list[TrialSettings], folder: Path) -> None:
    """Train trials one after the other."""
    torch.set_num_threads(1)
    dataset = ResidentDataset.load("digits", Path(), "cpu", 32, 32)
    for settings in share:
        place = folder / settings.arm.replace("/", "-") / str(settings.seed)
        place.mkdir(parents=True)
        list(Trial(settings, dataset, place).train(lambda: False))


def sweep(path: Path, home: Home, slots: int, tracking: bool) -> float:
    """Return the seconds from a sweep's first trial to its last, its records included."""
    console = Console(file=io.StringIO(), width=200)
    screen = running.Screen(no_report, console)
    machine = Machine(gpus="none", workers=slots)
    began: list[float] = []
    try:
        with first_start(began), tracked(tracking):
            _, ending = launch(read_study(path), path.read_text(), home, machine, None, screen)
            took = time.perf_counter() - began[0]
    finally:
        stop_server(home)
    if ending.state != "complete":
        raise SystemExit(f"the sweep is {ending.state}")
    return took


@contextmanager
def first_start(began: list[float]) -> Iterator[None]:
    """Note when trials start."""
    started = PlainDisplay.started

    def noted(*arguments: object) -> None:
        began.append(time.perf_counter())
        started(*arguments)  # type: ignore[arg-type]

    with patch.object(PlainDisplay, "started", noted):
        yield


@contextmanager
def tracked(tracking: bool) -> Iterator[None]:
    """Deliver to the home's MLflow server, or to nobody."""
    if tracking:
        yield
    else:
        with patch.object(running, "connect", lambda *_: Nobody()):
            yield


class Nobody:
    """A tracker that keeps nothing."""

    def begin_study(self) -> None:  # noqa: D102
        pass

    def deliver(self, snapshot: object) -> None:  # noqa: D102
        pass

    def log_report(self, report: object) -> None:  # noqa: D102
        pass

    def register_best(self, report: object) -> None:  # noqa: D102
        pass

    def settle(self) -> None:  # noqa: D102
        pass

    def end_study(self, status: object) -> None:  # noqa: D102
        pass


def no_report(*_: object) -> None:
    """Leave the report out: it is not what is measured."""


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
