"""What a study of 10,000 cells costs over one of a single cell: launch, status, resume.

Each is the whole command as a user starts it, with the small study as its peer in the same round:
what both have in common is the interpreter, the libraries, and a worker's start. ``launch`` and
``resume`` are timed until the first trial starts to train; ``resume`` and ``status`` meet a study
of which every trial but the last two is done.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from adarelu_sweep._version import __version__
from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.trials import TrialResult, attributes
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.tracking.delivered import Delivered

STUDY = """
name = "cells-{cells}"
[matrix]
dataset = "digits"
network = {{ name = "vgg16_bn", width = 0.0625 }}
activation = ["relu", "adarelu"]
seeds = {seeds}
[data]
train_limit = 32
test_limit = 32
[training]
epochs = 500
[report]
figures = false
"""


def main() -> None:
    """Measure, and print a Markdown table."""
    options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        sizes = (2, options.cells)
        files = {size: write_study(Path(folder), size) for size in sizes}
        done = Home(Path(folder) / "done")
        for size in sizes:
            prepare(done, files[size])
        seconds: dict[tuple[str, int], list[float]] = {}
        for turn in range(options.rounds):
            for size in sizes if turn % 2 else sizes[::-1]:
                fresh = Path(folder) / f"fresh-{turn}-{size}"
                name = f"cells-{size}"
                for verb, took in (
                    ("launch", until_started(fresh, "launch", str(files[size]))),
                    ("status", whole(done.root, "status", name)),
                    ("resume", until_started(done.root, "resume", name)),
                ):
                    seconds.setdefault((verb, size), []).append(took)
        for home in (done.root, *Path(folder).glob("fresh-*")):
            command(home, "server", "stop").wait()
    print(f"{date.today()}; {os.cpu_count()} cores; adarelu-sweep {__version__}\n")
    print(f"| command | {options.cells:,} cells (s) | 2 cells (s) | difference (s) | spread (s) |")
    print("| --- | --- | --- | --- | --- |")
    for verb in ("launch", "status", "resume"):
        many, few = seconds[verb, options.cells], seconds[verb, 2]
        differences = [a - b for a, b in zip(many, few, strict=True)]
        print(
            f"| {verb} | {statistics.median(many):.2f} | {statistics.median(few):.2f} | "
            f"{statistics.median(differences):.2f} | "
            f"{min(differences):.2f} to {max(differences):.2f} |"
        )


def write_study(folder: Path, size: int) -> Path:
    """Write the study file of a study of this many cells."""
    path = folder / f"cells-{size}.toml"
    path.write_text(STUDY.format(cells=size, seeds=size // 2))
    return path


def prepare(home: Home, path: Path) -> None:
    """Record a study of which every trial but the last two is complete and delivered."""
    home.create()
    study = read_study(path)
    record = StudyRecord(
        uid=uuid.uuid4().hex,
        study=study,
        source=path.read_text(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        workers=1,
    )
    ledger = Ledger(home.optuna_db)
    ledger.storage.engine.dispose()
    event.listen(ledger.storage.engine, "connect", hurry)
    book = ledger.create(record)
    result = vars(TrialResult(accuracy=50.0, loss=1.0, epochs=500, diverged=False))
    for number, cell in enumerate(list(cells(study))[:-2]):
        carried = attributes(cell, threads=1) | {"result": result}
        template = create_trial(state=TrialState.COMPLETE, value=50.0, user_attrs=carried)
        book._storage.create_new_trial(book._study_id, template)
        folder = home.trial_folder(study.name, number)
        folder.mkdir(parents=True)
        delivered = Delivered(run_id="0" * 32, status="FINISHED", epochs=500, params=True)
        (folder / "delivered.json").write_text(delivered.model_dump_json())
    ledger.close()


def hurry(connection: Any, _record: Any) -> None:
    """Make no transaction wait for the disk: this is only to set the stage."""
    connection.execute("PRAGMA synchronous = OFF")


def command(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command in a home, on the CPU."""
    return subprocess.Popen(
        [sys.executable, "-m", "adarelu_sweep", *arguments, "--home", str(home)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_started(home: Path, *arguments: str) -> float:
    """Return the seconds from a command's start to that of its first trial; stop it then."""
    start = time.perf_counter()
    process = command(home, *arguments, "--workers", "1", "--gpus", "none")
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if " started" in line:
            break
    else:
        raise SystemExit("".join(said))
    took = time.perf_counter() - start
    process.send_signal(signal.SIGINT)
    process.communicate()
    return took


def whole(home: Path, *arguments: str) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    process = command(home, *arguments)
    process.communicate()
    assert process.returncode == 0
    return time.perf_counter() - start


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
