"""What Ray adds to a trial: many trials of about 10 ms over local processes and over Ray, in turns.

Real sweeps without tracking, as in ``small_trials``. A trial is timed while all slots have one:
from when the last slot began its first to the last end. How long the whole command's work takes,
with workers that come up and go, is another column. Ray runs on this machine alone and is started
before.
"""

import argparse
import io
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console

from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.operating.sweep import Machine, launch
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.supervising.display import PlainDisplay
from adarelu_sweep.supervising.running import Screen
from benchmarks.machine import machine
from benchmarks.small_trials import STUDY, no_report, tracked


class Clock(PlainDisplay):
    """Notes when trials start and end."""

    def begin(self) -> None:
        """Forget what was noted."""
        self.first: dict[int, float] = {}
        self.ends: list[float] = []

    def started(self, slot: Slot, trial: str, epochs_done: int) -> None:
        """Note a slot's first start."""
        self.first.setdefault(slot.index, time.perf_counter())

    def finished(self, slot: Slot, *_: object) -> None:
        """Note an end."""
        self.ends.append(time.perf_counter())

    def each(self) -> float:
        """Return the milliseconds that a trial took while all slots had one."""
        began = max(self.first.values())
        counted = [end for end in self.ends if end > began]
        return 1000 * (counted[-1] - began) / len(counted)


def main() -> None:
    """Take turns, and print a Markdown table."""
    options = parsed()
    import ray
    from ray.cluster_utils import Cluster

    began = time.perf_counter()
    head = {"num_cpus": options.slots, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(f"{date.today()}; {machine(torch.device('cpu'))}, ray {ray.__version__}")
    print(f"{options.trials:,} trials, {options.slots} slots, {options.rounds} rounds\n")
    machines = {
        "local": Machine(gpus="none", workers=options.slots),
        "ray": Machine(
            gpus="none", workers=options.slots, launcher="ray", ray_address=cluster.address
        ),
    }
    each: dict[str, list[float]] = {name: [] for name in machines}
    whole: dict[str, list[float]] = {name: [] for name in machines}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.toml"
            path.write_text(STUDY.format(seeds=options.trials // 2))
            for turn in range(options.rounds):
                for name, where in machines.items():
                    start = time.perf_counter()
                    each[name].append(sweep(path, Home(Path(folder) / f"{name}-{turn}"), where))
                    whole[name].append(time.perf_counter() - start)
    finally:
        cluster.shutdown()
    print("| launcher | ms a trial | the whole sweep (s) |\n| --- | --- | --- |")
    for name in machines:
        print(f"| {name} | {spread(each[name])} | {spread(whole[name])} |")
    print(f"| ray over local | {ratio(each)} | {ratio(whole)} |")
    print(f"\nMedians, least to largest; {time.perf_counter() - began:.0f} s in all")


def sweep(path: Path, home: Home, where: Machine) -> float:
    """Run a sweep without tracking; return the milliseconds of a trial."""
    clock = Clock(Console(file=io.StringIO()), 1)
    clock.begin()
    screen = Screen(no_report, Console(file=io.StringIO(), width=200))
    with tracked(False), patch("adarelu_sweep.supervising.running.make_display", lambda *_: clock):
        _, ending = launch(read_study(path), path.read_text(), home, where, None, screen)
    if ending.state != "complete":
        raise SystemExit(f"the sweep is {ending.state}")
    return clock.each()


def spread(values: list[float]) -> str:
    """Return median, least and largest."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def ratio(values: dict[str, list[float]]) -> str:
    """Return the ratio of the same round: median, least and largest."""
    ratios = [a / b for a, b in zip(values["ray"], values["local"], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
