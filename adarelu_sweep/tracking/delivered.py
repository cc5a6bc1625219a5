"""How far a run in MLflow is up to date, kept beside what is delivered. Needs no mlflow."""

from pathlib import Path

from pydantic import BaseModel

from adarelu_sweep.files import write_atomically
from adarelu_sweep.tracking.snapshot import RunStatus


class Delivered(BaseModel):
    """What is known to have arrived of one run."""

    run_id: str
    experiment: str = ""
    """The experiment's id, where the run is a study's."""
    status: RunStatus | None = "RUNNING"
    """None where the trial is tried again since: whatever becomes of it has not arrived."""
    epochs: int = 0
    params: bool = False
    artifacts: bool = False
    tags: dict[str, str] = {}

    @classmethod
    def read(cls, folder: Path) -> "Delivered | None":
        """Return what is kept in a trial's or study's folder, or None if nothing is."""
        try:
            return cls.model_validate_json((folder / _FILE).read_bytes())
        except (OSError, ValueError):
            return None

    @classmethod
    def is_settled(cls, folder: Path, status: RunStatus) -> bool:
        """Return whether a run that ended with this status has arrived whole."""
        delivered = cls.read(folder)
        return delivered is not None and delivered.status == status

    @classmethod
    def below(cls, folder: Path) -> "dict[str, Delivered]":
        """Return what is kept in the folders below a study's: the id of a run to what arrived."""
        found = (cls.read(path.parent) for path in folder.glob(f"*/**/{_FILE}"))
        return {delivered.run_id: delivered for delivered in found if delivered is not None}

    @classmethod
    def reopen(cls, folder: Path) -> None:
        """Note that a trial that ended is tried again: its next end is news, with new artifacts."""
        if (delivered := cls.read(folder)) is not None:
            delivered.model_copy(update={"status": None, "artifacts": False}).write(folder)

    def write(self, folder: Path) -> None:
        """Keep it."""
        write_atomically(folder / _FILE, self.model_dump_json().encode())


_FILE = "delivered.json"
