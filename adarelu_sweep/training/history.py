"""What a trial has measured so far, and where it stands. Needs no torch."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
CONFUSION_MATRIX = "confusion_matrix.csv"
TRACEBACK = "traceback.txt"

Outcome = Literal["complete", "diverged", "pruned"]


class EpochRecord(BaseModel):
    """The metrics of one epoch.

    ``epoch`` counts from 1 and is the step in MLflow. The timestamp (milliseconds since 1970) is
    kept with the values: delivered twice with the same one, a metric stands in MLflow once.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    epoch: int
    timestamp: int
    metrics: dict[str, float]
    probes: dict[str, dict[str, float]] = {}
    """What was seen of each activation layer: its module name, then quantity, then value."""


class History(BaseModel):
    """All epochs of a trial in order, and its outcome once it has one."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    epochs: list[EpochRecord] = []
    outcome: Outcome | None = None

    @classmethod
    def read(cls, folder: Path) -> "History":
        """Read the history from a trial's checkpoint; empty if there is none."""
        path = folder / CHECKPOINT
        if not path.exists():
            return cls()
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error})") from error
        return cls.model_validate_json(metadata["history"])
