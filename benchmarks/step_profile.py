"""Where the time of a training step goes, by operation, with AdaReLU and with ReLU.

A CPU's profile, from torch's profiler, of the very steps that ``activation`` compares: what an
operation takes by itself, and what all the Python between them takes. Taken in turns.
"""

import argparse
import statistics
import time
from collections import defaultdict
from datetime import date

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.activation import Turn, steps
from benchmarks.machine import machine

ACTIVATIONS = ("relu", "adarelu")


def main() -> None:
    """Profile, and print a Markdown table of the operations that differ most."""
    options = parsed()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    build = steps(options, options.network, options.width, torch.device("cpu"), dtype)
    turns = {name: build(name) for name in ACTIVATIONS}
    for turn in turns.values():
        turn()
    plain: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    by_operation: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for name, turn in turns.items():
            began = time.perf_counter()
            for _ in range(options.repeats):
                turn()
            plain[name].append(1000 * (time.perf_counter() - began) / options.repeats)
    for name, turn in turns.items():
        by_operation[name] = profiled(turn, options.repeats)
    print(f"{date.today()}; {machine(torch.device('cpu'))}")
    print(
        f"{options.network}, width {options.width:g}, {options.dtype}, batch {options.batch_size}\n"
    )
    print("| ms of a step | relu | adarelu | more |\n| --- | --- | --- | --- |")
    medians = [statistics.median(plain[name]) for name in ACTIVATIONS]
    print(row("all, not profiled", *medians))
    operations = {operation for one in by_operation.values() for operation in one}
    both = {o: [by_operation[name].get(o, 0.0) for name in ACTIVATIONS] for o in operations}
    print(row("operations, profiled", *(sum(one.values()) for one in by_operation.values())))
    ranked = sorted(both, key=lambda o: abs(both[o][1] - both[o][0]), reverse=True)
    for operation in ranked[: options.rows]:
        print(row(operation, *both[operation]))


def profiled(turn: Turn, repeats: int) -> dict[str, float]:
    """Return the milliseconds of a step that each operation takes by itself."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            turn()
    times: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        times[event.key] += event.self_cpu_time_total / 1000 / repeats
    return times


def row(what: str, relu: float, adarelu: float) -> str:
    """Return a row of the table."""
    return f"| {what} | {relu:.3f} | {adarelu:.3f} | {adarelu - relu:+.3f} |"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg16_bn")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", type=int, default=12)
    return parser.parse_args()


if __name__ == "__main__":
    main()
