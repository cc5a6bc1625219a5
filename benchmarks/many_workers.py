"""32 workers on one SQLite home: what is lost, what is done twice, how long the supervisor is busy.

A real sweep of tiny trials: real workers, a real MLflow server, one supervisor (in this process, so
that the time of its own steps can be taken). Afterwards both databases are asked.

The peer is the least that recording anything can cost on this machine while it is so busy: a
process with the supervisor's priority that commits a row to an SQLite database of its own, on the
same disk and with the same settings, every 50 ms for as long as the sweep goes on.
"""

import argparse
import contextlib
import io
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from adarelu_sweep._version import __version__
from adarelu_sweep.home import Home
from adarelu_sweep.operating.sweep import Machine, launch
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.supervising.running import Screen
from adarelu_sweep.supervising.supervisor import Supervisor
from adarelu_sweep.tracking.server import stop_server

STUDY = """
name = "many"
[matrix]
dataset = "digits"
network = {{ name = "vgg16", width = 0.0078125 }}
activation = ["relu", "adarelu"]
seeds = {seeds}
[data]
train_limit = 32
test_limit = 32
[training]
epochs = 2
probes = false
[report]
figures = false
register_model = false
"""


def main() -> None:
    """Run the sweep, and print a Markdown table."""
    options = parsed()
    steps: list[float] = []
    timed(steps)
    with tempfile.TemporaryDirectory() as folder, commits(Path(folder) / "peer.db") as peer:
        path = Path(folder) / "many.toml"
        path.write_text(STUDY.format(seeds=options.trials // 2))
        home = Home(Path(folder) / "home")
        log = io.StringIO()
        start = time.perf_counter()
        machine = Machine(gpus="none", workers=options.workers)
        console = Console(file=log, width=200)
        try:
            screen = Screen(no_report, console)
            _, ending = launch(read_study(path), path.read_text(), home, machine, None, screen)
        finally:
            took = time.perf_counter() - start
            stop_server(home)
        rows = {
            "study": ending.state,
            "trials, workers": f"{options.trials:,}, {options.workers}",
            "whole time": f"{took:.0f} s, {took / options.trials * 1000:.0f} ms a trial",
            "supervisor's steps": f"{len(steps):,}",
            "their median, 99th percentile, longest (ms)": spread(steps),
            "one commit of one row, by another process (ms)": spread(peer()),
            **optuna_rows(home),
            **mlflow_rows(home),
            "lines of the log that tell of trouble": str(trouble(home, log.getvalue())),
        }
    print(f"{date.today()}; {os.cpu_count()} cores; adarelu-sweep {__version__}\n")
    print("| what | found |\n| --- | --- |")
    for what, found in rows.items():
        print(f"| {what} | {found} |")


PEER = """
import contextlib, sqlite3, sys, time
with contextlib.closing(sqlite3.connect(sys.argv[1], isolation_level=None)) as database:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE rows (number INTEGER)")
    while True:
        start = time.perf_counter()
        database.execute("INSERT INTO rows VALUES (1)")
        print(time.perf_counter() - start, flush=True)
        time.sleep(0.05)
"""


@contextlib.contextmanager
def commits(path: Path) -> Iterator[Callable[[], list[float]]]:
    """Commit to a database beside what is measured; yields what tells the seconds of each."""
    told = path.with_suffix(".txt")
    command = [sys.executable, "-c", PEER, str(path)]
    with told.open("wb") as output, subprocess.Popen(command, stdout=output) as process:
        try:
            yield lambda: [float(line) for line in told.read_text().splitlines()]
        finally:
            process.kill()


def timed(steps: list[float]) -> None:
    """Note how long the supervisor is busy with each event."""
    react = Supervisor._react

    def measured(supervisor: Supervisor, event: Any) -> None:
        start = time.perf_counter()
        react(supervisor, event)
        steps.append(time.perf_counter() - start)

    Supervisor._react = measured  # type: ignore[method-assign]


def no_report(*_: object) -> None:
    """Leave the report out: it is not what is measured."""


def spread(seconds: list[float]) -> str:
    """Return median, 99th percentile and maximum in ms."""
    shares = statistics.quantiles(seconds, n=100)
    return ", ".join(f"{1000 * s:.1f}" for s in (shares[49], shares[98], max(seconds)))


def optuna_rows(home: Home) -> dict[str, str]:
    """Count trials and cells in Optuna's book."""
    with contextlib.closing(sqlite3.connect(home.optuna_db)) as book:
        states = book.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall()
        (cells,) = book.execute(
            "SELECT count(DISTINCT value_json) FROM trial_user_attributes WHERE key = 'cell'"
        ).fetchone()
        (retried,) = book.execute(
            "SELECT count(*) FROM trial_user_attributes WHERE key = 'attempts' AND value_json > '1'"
        ).fetchone()
    return {
        "Optuna: trials by state": ", ".join(f"{n:,} {state}" for state, n in states),
        "Optuna: different cells": f"{cells:,}",
        "Optuna: trials with a second attempt": str(retried),
    }


def mlflow_rows(home: Home) -> dict[str, str]:
    """Count runs and metrics in MLflow's book."""
    with contextlib.closing(sqlite3.connect(home.mlflow_db)) as book:
        of_trials = (
            "run_uuid IN (SELECT run_uuid FROM tags "
            "WHERE key = 'adarelu_sweep.kind' AND value = 'trial')"
        )
        states = book.execute(
            f"SELECT status, count(*) FROM runs WHERE {of_trials} GROUP BY status"
        ).fetchall()
        steps = book.execute(
            "SELECT run_uuid, key, step, count(*) FROM metrics "
            f"WHERE {of_trials} GROUP BY run_uuid, key, step"
        ).fetchall()
    epochs = [step for _, key, step, _ in steps if key == "test/accuracy"]
    return {
        "MLflow: runs of trials by status": ", ".join(f"{n:,} {state}" for state, n in states),
        "MLflow: test accuracies at step 1, 2": f"{epochs.count(1):,}, {epochs.count(2):,}",
        "MLflow: (run, metric, step) that stand twice": str(sum(n > 1 for *_, n in steps)),
    }


def trouble(home: Home, said: str) -> int:
    """Count lines about locks, lost workers, undelivered records."""
    logs = [said, *(path.read_text() for path in home.log_folder("many").glob("*.log"))]
    signs = ("locked", "lock error", "Traceback", "cannot be delivered", "goes on in another")
    return sum(any(sign in line for sign in signs) for log in logs for line in log.splitlines())


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
