"""Where a study stands, as anybody may ask at any time."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from adarelu_sweep.home import Home
from adarelu_sweep.recording.lease import Holder, Lease
from adarelu_sweep.recording.ledger import StudyLedger
from adarelu_sweep.recording.trials import Counts
from adarelu_sweep.supervising.agenda import Agenda


@dataclass(frozen=True)
class StudyState:
    """A study's state and how many trials are in each of theirs."""

    study: str
    state: Literal["running", "interrupted", "complete", "failed"]
    counts: Counts
    subset: str | None
    holder: Holder | None = None
    """Where it runs, if it does."""

    def as_dict(self) -> dict[str, Any]:
        """Return what ``status --json`` prints."""
        state = {"study": self.study, "state": self.state, "trials": asdict(self.counts)}
        if self.holder:
            where = {"host": self.holder.host, "pid": self.holder.pid, "since": self.holder.since}
            state["runs_on"] = where
        return state | ({"subset": self.subset} if self.subset else {})

    def __str__(self) -> str:
        """Return what ``status`` prints: one line."""
        counts = self.counts
        parts = [f"{counts.complete} of {counts.total} trials complete"]
        parts += [
            f"{number} {what}"
            for what in ("running", "waiting", "pruned", "failed")
            if (number := getattr(counts, what))
        ]
        where = f" ({self.holder}, since {self.holder.since})" if self.holder else ""
        note = f"  {self.subset}" if self.subset else ""
        return f"{self.study}: {self.state}{where}, {', '.join(parts)}{note}"


def state_of(ledger: StudyLedger, home: Home) -> StudyState:
    """Return where a study stands.

    A trial that is RUNNING in the book of a study that nobody supervises waits: its supervisor was
    killed, and the next resume takes it up.
    """
    study = ledger.record.study
    holder = Lease(home.study_folder(study.name), study.name).holder()
    if holder is None and (elsewhere := ledger.owner()):
        process, host, since = elsewhere
        holder = Holder(host=host, pid=process, process_started=0, since=since)
    agenda = Agenda(ledger, home)
    counts = agenda.counts()
    if holder is None:
        counts = counts.without_running()
    state: Literal["running", "interrupted", "complete", "failed"]
    if holder:
        state = "running"
    elif counts.waiting:
        state = "interrupted"
    else:
        state = "failed" if agenda.has_failed() else "complete"
    return StudyState(study.name, state, counts, study.data.subset_note(), holder)
