"""Random kills at random times (``python -m tests.chaos.random --minutes 30 [--seed N]``).

Study after study is launched and, until it is complete or had enough, anybody of it gets any signal
at any time. What ended is resumed. Every study is then checked as those of the matrix are: some
train with two workers at a time, some are searches, whose proposals have to repeat as well.
The times are those of real processes: a seed repeats what is done when, not what it hits.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom

import psutil

from adarelu_sweep.recording.lease import Lease
from tests.chaos import processes
from tests.chaos.books import Books, differences
from tests.chaos.cases import SIGNALS, TARGETS, Target
from tests.chaos.record import conditions, write_section
from tests.chaos.stage import Stage
from tests.chaos.studies import LONGER, SEARCH
from tests.chaos.supervised import SupervisedStudy

_MOST = 12  # disturbances of a study
_LONGEST = 12.0  # seconds until the next one
_TWICE = 0.15  # the probability that a second signal follows at once
_NEW_HOME = 0.25  # that a study has a home of its own, whose databases are made under fire
_NO_WORKER = "no worker comes up"


@dataclass(frozen=True)
class Kind:
    """A study, how many workers it has, and how many trials each of them trains at once."""

    text: str
    workers: int
    pack: int = 1
    repeats: bool = True
    """Whether every number has to be that of an undisturbed study without packs."""

    @property
    def undisturbed(self) -> tuple[str, ...]:
        """The arguments of the launch with which it is compared."""
        return ("--workers", str(self.workers))

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of its launch."""
        return (*self.undisturbed, "--pack", str(self.pack))


KINDS = {
    "matrix": Kind(LONGER, workers=2),
    "packs": Kind(LONGER, workers=2, pack=3),
    "search": Kind(SEARCH, workers=1),
    # Its proposals depend on which result comes first.
    "parallel-search": Kind(SEARCH, workers=2, repeats=False),
}
_TURNS = ("matrix", "search", "packs", "parallel-search")


@dataclass
class Tally:
    """What was done, and what it cost."""

    kills: Counter[str] = field(default_factory=Counter)
    """By signal and target."""
    studies: Counter[str] = field(default_factory=Counter)
    supervisors: int = 0
    trials: int = 0
    epochs: int = 0
    begun: int = 0
    slowest: float = 0.0

    def table(self) -> str:
        """Return the signals sent, a row for every target, and the sums."""
        lines = [
            f"| target | {' | '.join(number.name for number in SIGNALS)} |",
            f"| --- |{' ---: |' * len(SIGNALS)}",
        ]
        for target in TARGETS:
            row = [str(self.kills[f"{number.name} {target}"]) for number in SIGNALS]
            lines.append(f"| {target} | {' | '.join(row)} |")
        studies = ", ".join(f"{times} {kind}" for kind, times in sorted(self.studies.items()))
        lines += [
            "",
            f"{self.kills.total()} signals; {self.studies.total()} studies ({studies}) with "
            f"{self.trials} trials; {self.supervisors - self.studies.total()} resumes; "
            f"{self.epochs} epochs, {self.begun - self.epochs} of them begun once more; "
            f"{self.slowest:.1f} s at most from a signal to the end of the supervisor.",
        ]
        return "\n".join(lines)


class Storm:
    """Signals to a study at random times."""

    def __init__(self, study: SupervisedStudy, random: Random, tally: Tally) -> None:
        self._study = study
        self._random = random
        self._tally = tally

    def rage(self, until: float) -> None:
        """Disturb the study until it is complete, had enough, or the time is over."""
        for _ in range(self._random.randint(3, _MOST)):
            if not self._study.is_supervised():
                self._study.start()
            ends = min(until, time.monotonic() + self._random.uniform(0, _LONGEST))
            while time.monotonic() < ends and not self._study.has_ended():
                time.sleep(0.05)
            if self._study.has_ended():
                self._study.expect({0})
                return
            self._strike()
            if time.monotonic() > until:
                return

    def _strike(self) -> None:
        target = self._random.choice(TARGETS)
        number = self._random.choice(SIGNALS)
        workers = processes.workers(self._study.pid)
        victims = self._victims(target)
        supervises = self._supervises()
        began = time.monotonic()
        self._send(victims, number, target)
        if self._random.random() < _TWICE:
            time.sleep(self._random.uniform(0, 1))
            self._send(victims, self._random.choice(SIGNALS), target)
        if target in {"supervisor", "everything"}:
            code = self._study.stopped(set(range(-64, 256)), began, workers)
            assert not supervises or self._is_in_order(code), f"the sweep ended with {code}"

    def _send(self, victims: list[psutil.Process], number: signal.Signals, target: Target) -> None:
        processes.send(victims, number)
        self._tally.kills[f"{number.name} {target}"] += bool(victims)

    def _is_in_order(self, code: int) -> bool:
        """Return whether a supervisor that was disturbed may end like this.

        Where its workers are killed as they come, it says so and ends.
        """
        given_up = code == 2 and _NO_WORKER in self._study.said()
        return given_up or code in {0, 130, 143, -signal.SIGKILL}

    def _supervises(self) -> bool:
        """Return whether the supervisor has come so far as to have taken the lease."""
        folder = self._study.home / "trials" / self._study.name
        holder = Lease(folder, self._study.name).holder()
        return holder is not None and holder.pid == self._study.pid

    def _victims(self, target: Target) -> list[psutil.Process]:
        home, pid = self._study.home, self._study.pid
        match target:
            case "supervisor":
                return [psutil.Process(pid)]
            case "worker":
                found = processes.workers(pid)
                return [self._random.choice(found)] if found else []
            case "server":
                found = processes.server(home)
                return found if self._random.random() < 0.5 else found[:1]  # its leader alone
            case "everything":
                return processes.everything(pid, home)


def main() -> int:
    """Let it rage for as long as told; return 1 at the first study that does not come out right."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.random", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    parser.add_argument("--kind", choices=KINDS, help="of which all studies are; else they vary")
    parser.add_argument("--folder", type=Path, help="where all of it lies; kept after a failure")
    parser.add_argument("--write", type=Path, help="file whose section on this is replaced")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="random-kills-"))
    print(f"in {folder}", flush=True)
    tally = Tally()
    turns = (options.kind,) if options.kind else _TURNS
    until = time.monotonic() + 60 * options.minutes
    with _stage(folder / "undisturbed") as calm, _stage(folder / "disturbed") as stage:
        references = {
            name: calm.reference(kind.text, name, kind.undisturbed)
            for name, kind in KINDS.items()
            if kind.repeats and name in turns
        }
        random = Random(options.seed)
        while time.monotonic() < until:
            kind = turns[tally.studies.total() % len(turns)]
            name = f"{kind}-{tally.studies.total()}"
            alone = random.random() < _NEW_HOME
            try:
                with _stage(folder / name) if alone else _stays(stage) as there:
                    _one(there, kind, name, references.get(kind), random, tally, until)
            except AssertionError as error:
                print(f"seed {options.seed}: {name} in {folder}: {error}\n{tally.table()}")
                return 1
            shutil.rmtree(folder / name, ignore_errors=True)
    print(tally.table())
    if options.write:
        command = f"python -m {__spec__.name} --minutes {options.minutes:g} --seed {options.seed}"
        command += f" --kind {options.kind}" if options.kind else ""
        write_section(options.write, "random", f"{conditions(command)}\n\n{tally.table()}")
    shutil.rmtree(folder)
    return 0


@contextmanager
def _stage(folder: Path) -> Iterator[Stage]:
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.close()


@contextmanager
def _stays(stage: Stage) -> Iterator[Stage]:
    yield stage


def _one(
    stage: Stage,
    kind: str,
    name: str,
    reference: Books | None,
    random: Random,
    tally: Tally,
    until: float,
) -> None:
    """Run one study through a storm, and count what it took."""
    study = stage.study(KINDS[kind].text, name, KINDS[kind].options)
    began, before = time.monotonic(), tally.kills.total()
    try:
        Storm(study, random, tally).rage(until)
        study.finish()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{study.said()}") from error
    finally:
        study.close()
    books = stage.books(study)
    found = differences(books, reference)
    assert not found, "\n".join(found)
    tally.studies[kind] += 1
    tally.supervisors += study.supervisors
    tally.trials += len(books.trials)
    tally.epochs += books.epochs
    tally.begun += stage.begun(books)
    tally.slowest = max(tally.slowest, study.slowest)
    kills, seconds = tally.kills.total() - before, time.monotonic() - began
    print(f"{name}: {kills} signals, {study.supervisors} supervisors, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
