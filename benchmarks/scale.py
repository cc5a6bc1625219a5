"""How many slots one supervisor serves: simulated workers, all else real, on one machine.

Supervisor, agenda, Optuna's book and messages are those of a sweep; a worker here lets the time of
a trial pass and says what a real one would, from one thread for all of them. Nothing is delivered
to MLflow, which takes its records in the background and is another row. The peer is the
supervisor's own work with one slot: what each further slot costs shows beside it.

``--seconds 0`` asks for as much as it can take; the rate is then the supervisor's limit, and a
cluster of N slots is kept busy by trials that take N / rate seconds or longer.
"""

import argparse
import heapq
import io
import resource
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from datetime import date
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import torch
from rich.console import Console
from sqlalchemy import event
from sqlalchemy.engine import Engine

from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Gone, Launcher, Said, Slot, Worker
from adarelu_sweep.launching.messages import (
    EpochDone,
    Finished,
    FromWorker,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    ToWorker,
)
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.display import PlainDisplay
from adarelu_sweep.supervising.supervisor import Supervisor, SupervisorInbox
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.training.history import EpochRecord, History
from benchmarks.machine import machine
from benchmarks.small_trials import Nobody

_METRICS = {f"{split}/{what}": 50.0 for split in ("train", "test") for what in ("accuracy", "loss")}
_METRICS["images_per_second"] = 1000.0


def main() -> None:
    """Simulate, for every number of slots, and print a Markdown table."""
    options = parsed()
    print(f"{date.today()}; {machine(torch.device('cpu'))}")
    print(f"Optuna's book: {'PostgreSQL' if options.storage else 'SQLite'}\n")
    columns = (
        *("slots", "trials", "seconds of a trial", "trials a second"),
        *("ms a trial of the supervisor", "statements, commits a trial"),
        *("slots busy", "memory a trial (kB)", "book (MB)"),
    )
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for number, slots in enumerate(options.slots):
        with tempfile.TemporaryDirectory() as folder:
            row = simulate(Path(folder), f"scale-{number}", slots, options)
        print(f"| {' | '.join(row)} |", flush=True)


def simulate(
    folder: Path, name: str, number_of_slots: int, options: argparse.Namespace
) -> tuple[str, ...]:
    """Run a study of as many trials as asked for, and return its row of the table."""
    home = Home(folder, options.storage)
    home.create()
    inbox = SupervisorInbox()
    slots = [Slot(index, 1) for index in range(number_of_slots)]
    with closing(Ledger(home.database)) as ledger:
        study = ledger.create(record(name, options.trials))
        delivery = Delivery(Nobody, lambda _line: None)
        launcher = SimulatedLauncher(inbox, options.seconds)
        memory, load = resident(), Load()
        supervisor = Supervisor(
            Agenda(study, home),
            launcher,
            inbox,
            slots,
            delivery,
            PlainDisplay(Console(file=io.StringIO(), width=200), 1),
            folder,
            study.record.study.execution,
            Packing(1, home),
            study.patience,
        )
        start, processor = time.perf_counter(), time.process_time()
        with load:
            ending = supervisor.run()
        took, processor = time.perf_counter() - start, time.process_time() - processor
        grown = resident() - memory
        delivery.finish("FINISHED", None, patience=60)
        if ending.state != "complete" or len(study.trials()) != options.trials:
            raise SystemExit(f"the study is {ending.state}, {len(study.trials())} trials")
        if options.storage:
            ledger.delete(name)
    size = sum(path.stat().st_size for path in folder.glob("optuna.db*"))
    trials = options.trials
    return (
        *(f"{number_of_slots:,}", f"{trials:,}", f"{options.seconds:g}", f"{trials / took:.0f}"),
        *(
            f"{1000 * processor / trials:.1f}",
            f"{load.statements / trials:.1f}, {load.commits / trials:.1f}",
        ),
        f"{100 * trials * options.seconds / took / number_of_slots:.0f} %",
        f"{grown / trials / 1e3:.1f}",
        f"{size / 1e6:.0f}" if size else "on the server",
    )


class Load:
    """What is asked of databases meanwhile."""

    def __init__(self) -> None:
        self.statements = 0
        self.commits = 0

    def __enter__(self) -> "Load":
        event.listen(Engine, "before_cursor_execute", self._on_statement)
        event.listen(Engine, "commit", self._on_commit)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "before_cursor_execute", self._on_statement)
        event.remove(Engine, "commit", self._on_commit)

    def _on_statement(self, *_: Any) -> None:
        self.statements += 1

    def _on_commit(self, *_: Any) -> None:
        self.commits += 1


class SimulatedWorker(Worker):
    """Takes a task, and says after its time that it is done."""

    def __init__(self, slot: Slot, launcher: "SimulatedLauncher") -> None:
        self.slot = slot
        self._launcher = launcher
        launcher.say(self, [Ready(host="simulated", pid=1, device="cpu", versions={})])

    def send(self, message: ToWorker) -> None:  # noqa: D102
        if isinstance(message, Task):
            (order,) = message.trials
            self._launcher.say(self, [Started(trial=order.number, history=History())])
            now = round(1000 * time.time())
            epoch = EpochRecord(epoch=1, timestamp=now, metrics=_METRICS)
            done = History(epochs=[epoch], outcome="complete")
            said = [
                EpochDone(trial=order.number, record=epoch),
                Finished(trial=order.number, history=done),
            ]
            self._launcher.later(self, said)
        elif isinstance(message, Quit | Stop):
            self._launcher.inbox.put(Gone(self, "exited with 0", in_order=True))

    def kill(self) -> None:  # noqa: D102
        self._launcher.inbox.put(Gone(self, "was killed"))


class SimulatedLauncher(Launcher):
    """Lets the time of all trials pass, in one thread."""

    def __init__(self, inbox: SupervisorInbox, seconds: float) -> None:
        self.inbox = inbox
        self._seconds = seconds
        self._order = count()
        self._due: list[tuple[float, int, SimulatedWorker, list[FromWorker]]] = []
        self._changed = Condition()
        Thread(target=self._pass_time, daemon=True).start()

    def start(self, slot: Slot) -> SimulatedWorker:  # noqa: D102
        return SimulatedWorker(slot, self)

    def close(self) -> None:  # noqa: D102
        pass

    def say(self, worker: SimulatedWorker, messages: Iterable[FromWorker]) -> None:
        """Say something at once."""
        for message in messages:
            self.inbox.put(Said(worker, message))

    def later(self, worker: SimulatedWorker, messages: list[FromWorker]) -> None:
        """Say something when the time of a trial has passed."""
        with self._changed:
            when = time.monotonic() + self._seconds
            heapq.heappush(self._due, (when, next(self._order), worker, messages))
            self._changed.notify()

    def _pass_time(self) -> None:
        while True:
            with self._changed:
                while not self._due or (left := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(left if self._due else None)
                _, _, worker, messages = heapq.heappop(self._due)
            self.say(worker, messages)


def record(name: str, trials: int) -> StudyRecord:
    """Return a study of so many seeds of one arm."""
    study = Study.model_validate(
        {
            "name": name,
            "matrix": {
                "dataset": "digits",
                "network": {"name": "vgg16", "width": 0.0078125},
                "activation": "relu",
                "seeds": trials,
            },
            "training": {"epochs": 1},
        }
    )
    return StudyRecord(uid=name, study=study, source="", created="2026-01-01", version="0")


def resident() -> int:
    """Return the most memory that this process has had, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="of a trial")
    parser.add_argument("--storage", help="a PostgreSQL database's address")
    return parser.parse_args()


if __name__ == "__main__":
    main()
