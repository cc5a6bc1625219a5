"""Where a study stands, as anybody may ask at any time."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from adarelu_sweep.home import Home
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.lease import Lease
from adarelu_sweep.supervising.ledger import StudyLedger
from adarelu_sweep.supervising.trials import Counts


@dataclass(frozen=True)
class StudyState:
    """A study's state and how many trials are in each of theirs."""

    study: str
    state: Literal["running", "interrupted", "complete", "failed"]
    counts: Counts
    subset: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``status --json`` prints."""
        state = {"study": self.study, "state": self.state, "trials": asdict(self.counts)}
        return state | ({"subset": self.subset} if self.subset else {})


def state_of(ledger: StudyLedger, home: Home) -> StudyState:
    """Return where a study stands.

    A trial that is RUNNING in the book of a study that nobody supervises waits: its supervisor was
    killed, and the next resume takes it up.
    """
    study = ledger.record.study
    supervised = Lease(home.study_folder(study.name), study.name).holder() is not None
    agenda = Agenda(ledger, home)
    counts = agenda.counts()
    if not supervised:
        counts = counts.without_running()
    state: Literal["running", "interrupted", "complete", "failed"]
    if supervised:
        state = "running"
    elif counts.waiting:
        state = "interrupted"
    else:
        state = "failed" if agenda.has_failed() else "complete"
    return StudyState(study.name, state, counts, study.data.subset_note())
