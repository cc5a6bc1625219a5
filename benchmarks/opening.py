"""How long a data set takes to open on the CPU, and what memory the processes that hold it need.

Three ways: read from its files by every process, as it is where nothing can be written; prepared by
the first one; and mapped by the later ones. Every opening is in a process of its own, after its
imports. Memory is counted while several processes hold the data set: what is mapped by all of them
is nobody's own. Mapped is then also what is not in memory yet, as after a night; with and without
being read ahead while the process imports.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

from adarelu_sweep.datasets.catalog import prepared_file
from adarelu_sweep.datasets.read_ahead import read_ahead
from benchmarks.machine import machine

OPEN = """
import sys, time
from pathlib import Path
import psutil, torch
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import read

name, folder, way = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
own = psutil.Process().memory_full_info().uss
start = time.perf_counter()
if way == "read":
    data = ResidentDataset(read(name, folder), "cpu")
else:
    data = ResidentDataset.load(name, folder, "cpu")
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
print((psutil.Process().memory_full_info().uss - own) / 1e6, flush=True)
sys.stdin.readline()
"""


def main() -> None:
    """Take turns, and print a Markdown table."""
    options = parsed()
    ways = ("read", "prepared", "mapped", "from the disk", "from the disk, read ahead")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    place = prepared_file(options.dataset, options.data_dir)
    for _ in range(options.rounds):
        found["read"] += held(options, "read")
        shutil.rmtree(place.parent, ignore_errors=True)
        found["prepared"] += held(options, "load", 1)
        found["mapped"] += held(options, "load")
        evict(place)
        found["from the disk"] += held(options, "load", 1)
        evict(place)
        read_ahead([options.dataset], options.data_dir)
        found["from the disk, read ahead"] += held(options, "load", 1)
    print(f"{date.today()}; {machine(torch.device('cpu'))}; {options.dataset}; ", end="")
    print(f"{options.holders} holders; {options.rounds} rounds\n")
    print("| way | seconds | own memory, MB |\n| --- | --- | --- |")
    for way, measured in found.items():
        seconds, megabytes = zip(*measured, strict=True)
        print(f"| {way} | {median(seconds, '.2f')} | {median(megabytes, '.0f')} |")
    print("\nOne that is alone has all that it has mapped for its own.")


def evict(file: Path) -> None:
    """Have the kernel drop a file from memory, that nobody has mapped."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def held(options: argparse.Namespace, way: str, number: int = 0) -> list[tuple[float, float]]:
    """Return the seconds and the MB of processes that opened it in turn and held it together."""
    processes, seconds = [], []
    command = [sys.executable, "-c", OPEN, options.dataset, str(options.data_dir), way]
    for _ in range(number or options.holders):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        seconds.append(float(answer(process)))
        processes.append(process)
    megabytes = [float(asked(process)) for process in processes]
    for process in processes:
        process.communicate("\n")
    return list(zip(seconds, megabytes, strict=True))


def asked(process: "subprocess.Popen[str]") -> str:
    """Let a process go on, and return what it says."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


def answer(process: "subprocess.Popen[str]") -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline()


def median(values: tuple[float, ...], form: str) -> str:
    """Return the median, and the least and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="its prepared/ is deleted")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--holders", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
