"""How far a run in MLflow is up to date, kept in the home. Needs no mlflow.

It bears the study's uid: with a database server another home may delete a study and launch one of
the same name, and what this home has delivered of the first says nothing of the second.
"""

from pathlib import Path

from pydantic import BaseModel

from adarelu_sweep.files import write_atomically
from adarelu_sweep.tracking.snapshot import RunStatus


class Delivered(BaseModel):
    """What is known to have arrived of one run."""

    study: str
    """The uid of the run's study."""
    run_id: str
    experiment: str = ""
    """The experiment's id, where the run is a study's."""
    status: RunStatus | None = "RUNNING"
    """None where the trial is tried again since: whatever becomes of it has not arrived."""
    epochs: int = 0
    params: bool = False
    artifacts: bool = False
    """Whether those that go with the status have arrived."""
    tags: dict[str, str] = {}

    @classmethod
    def read(cls, folder: Path, study: str) -> "Delivered | None":
        """Return what is kept of a study in its folder or a trial's, or None if nothing is."""
        try:
            delivered = cls.model_validate_json((folder / _FILE).read_bytes())
        except (OSError, ValueError):
            return None
        return delivered if delivered.study == study else None

    @classmethod
    def is_settled(cls, folder: Path, study: str, status: RunStatus) -> bool:
        """Return whether a run that ended with this status has arrived whole."""
        delivered = cls.read(folder, study)
        return delivered is not None and delivered.status == status

    @classmethod
    def below(cls, folder: Path, study: str) -> "dict[str, Delivered]":
        """Return what is kept in the folders below a study's: the id of a run to what arrived."""
        found = (cls.read(path.parent, study) for path in folder.glob(f"*/**/{_FILE}"))
        return {delivered.run_id: delivered for delivered in found if delivered is not None}

    @classmethod
    def reopen(cls, folder: Path, study: str) -> None:
        """Note that a trial that ended is tried again: its next end is news, with new artifacts."""
        if (delivered := cls.read(folder, study)) is not None:
            delivered.model_copy(update={"status": None}).write(folder)

    def write(self, folder: Path) -> None:
        """Keep it."""
        write_atomically(folder / _FILE, self.model_dump_json().encode())


_FILE = "delivered.json"
