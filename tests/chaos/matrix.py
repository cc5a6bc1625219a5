"""The kill matrix: every signal to everyone at every moment (``python -m tests.chaos.matrix``).

One study suffers one signal to one target at all moments. It is then compared with a study that
nothing disturbed. The outcome of every such chain is kept in the folder as soon as it is known;
called again with the folder of a run that was cut off, it goes on with the chains that are left,
unless the code is another by now: one table speaks of one commit.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.books import Books, differences
from tests.chaos.cases import MOMENTS, SIGNALS, TARGETS, Case, pairwise, whole
from tests.chaos.disturbed import Disturbance
from tests.chaos.record import commit, conditions, write_section
from tests.chaos.stage import Stage
from tests.chaos.studies import MATRIX

# Whose order of trials is always the same; and then a trial's threads are, too.
_ONE_SLOT = ("--workers", "1")
_WITH_MODEL = ("--set", "report.register_model=true")


@dataclass(frozen=True)
class Outcome:
    """How a study that suffered a chain of cases came out."""

    chain: str
    cases: int
    supervisors: int
    epochs: int
    begun: int
    slowest: float
    """Seconds from a signal to the supervisor's end, the most of all."""
    seconds: float
    error: str = ""


def undisturbed(stage: Stage) -> Books:
    """Return the books to compare with."""
    return stage.reference(MATRIX, "undisturbed", _ONE_SLOT)


def play(
    stage: Stage, reference: Books, name: str, cases: Sequence[Case], pack: int = 1
) -> Outcome:
    """Let one study suffer all cases; raise AssertionError where it does not come out right."""
    began = time.monotonic()
    registers = any(case.target == "worker" and case.moment == "report" for case in cases)
    packed = ("--pack", str(pack))
    study = stage.study(MATRIX, name, (*_ONE_SLOT, *packed, *(_WITH_MODEL if registers else ())))
    try:
        Disturbance(study, stage.moments).suffer(cases)
        study.finish()
    finally:
        study.close()
    books = stage.books(study)
    found = differences(books, reference)
    assert not found, f"{name}:\n" + "\n".join(found)
    return Outcome(
        chain=name,
        cases=len(cases),
        supervisors=study.supervisors,
        epochs=books.epochs,
        begun=stage.begun(books),
        slowest=study.slowest,
        seconds=time.monotonic() - began,
    )


def main() -> int:
    """Play the chains that are left; return 1 if any study did not come out right."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.matrix", description=__doc__)
    parser.add_argument("--folder", type=Path, help="of a run to go on with; or for a new one")
    parser.add_argument("--pairs", action="store_true", help="as few cases as hold every pair")
    parser.add_argument("--pack", type=int, default=1, help="trials that a worker trains at once")
    parser.add_argument("--only", default="", help="a part of the names of the chains to play")
    parser.add_argument("--write", type=Path, help="file whose section on the matrix is replaced")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    print(f"in {folder}", flush=True)
    _same_code(folder)
    outcomes = _earlier(folder)
    stage = Stage(folder)
    try:
        reference = undisturbed(stage)
        for chain, cases in (pairwise() if options.pairs else whole()).items():
            if options.only in chain and not (chain in outcomes and not outcomes[chain].error):
                outcomes[chain] = _tried(stage, reference, folder, chain, cases, options.pack)
                with (folder / "outcomes.jsonl").open("a") as file:
                    file.write(json.dumps(asdict(outcomes[chain])) + "\n")
                _show(outcomes[chain])
    finally:
        stage.close()
    table = _table(outcomes)
    print(table)
    if options.write:
        write_section(options.write, "matrix", table)
    return int(any(outcome.error for outcome in outcomes.values()))


def _same_code(folder: Path) -> None:
    """Exit with 2 where a folder's run is of another commit; note in a new one which it is of."""
    note, now = folder / "commit", commit()
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists() and not (folder / "outcomes.jsonl").exists():
        note.write_text(now)
    elif not note.exists() or note.read_text() != now:
        print(f"{folder} is a run of another commit than {now}: give a new folder", file=sys.stderr)
        sys.exit(2)


def _earlier(folder: Path) -> dict[str, Outcome]:
    kept = folder / "outcomes.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    return {outcome.chain: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}


def _tried(
    stage: Stage, reference: Books, folder: Path, chain: str, cases: Sequence[Case], pack: int
) -> Outcome:
    goes = len(list(folder.glob(f"{chain}-*.toml")))
    began = time.monotonic()
    try:
        outcome = play(stage, reference, f"{chain}-{goes + 1}", cases, pack)
    except AssertionError as error:
        return Outcome(chain, len(cases), 0, 0, 0, 0.0, time.monotonic() - began, str(error))
    return Outcome(**asdict(outcome) | {"chain": chain})


def _show(outcome: Outcome) -> None:
    done = f"{outcome.cases} cases, {outcome.supervisors} supervisors, {outcome.seconds:.0f} s"
    print(f"{outcome.chain}: {outcome.error or done}", flush=True)


def _table(outcomes: dict[str, Outcome]) -> str:
    """Return what is to be shown: a row for every target, a column for every signal."""
    done = list(outcomes.values())
    slowest = max((outcome.slowest for outcome in done), default=0.0)
    lines = [
        conditions(f"python -m {__spec__.name}"),
        "",
        f"Moments of every cell: {', '.join(MOMENTS)}.",
        "",
        f"| target | {' | '.join(number.name for number in SIGNALS)} |",
        f"| --- |{' --- |' * len(SIGNALS)}",
    ]
    for target in TARGETS:
        cells = [_cell(outcomes.get(f"{number.name.lower()}-{target}")) for number in SIGNALS]
        lines.append(f"| {target} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{sum(o.cases for o in done if not o.error)} cases without a difference, "
        f"{sum(bool(o.error) for o in done)} chains with one; "
        f"{sum(o.supervisors for o in done)} launches and resumes, "
        f"{sum(o.epochs for o in done)} epochs, "
        f"{sum(o.begun - o.epochs for o in done)} of them begun once more; "
        f"{slowest:.1f} s at most from a signal to the end of the supervisor.",
    ]
    return "\n".join(lines)


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    return "FAILED" if outcome.error else f"{outcome.cases} of {outcome.cases}"


if __name__ == "__main__":
    sys.exit(main())
