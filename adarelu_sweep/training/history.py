"""What a trial has measured so far, and where it stands. Needs no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from adarelu_sweep.storing.places import Place
from adarelu_sweep.training.sealed import DamagedError, read_entry

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
DAMAGED = "checkpoint.damaged.safetensors"
MODEL = "model.safetensors"
CONFUSION_MATRIX = "confusion_matrix.csv"
TRACEBACK = "traceback.txt"

HISTORY = "history"
"""The history's name in a checkpoint's metadata."""

Outcome = Literal["complete", "diverged", "pruned"]
Keep = Literal["last", "best", "none"]
"""The weights that are kept of a finished trial: of its last epoch, of its best one, or none."""


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
    def read(cls, folder: Place) -> "History":
        """Read the history from a trial's newest whole checkpoint; empty if there is none.

        Verifies the header, which holds the history, and not the weights. What a worker finds
        damaged when it takes up the trial, it puts out of the way.
        """
        for name in (CHECKPOINT, PREVIOUS):  # in this order: a writer moves them in this order too
            try:
                return cls.parse(read_entry(folder / name, HISTORY))
            except (FileNotFoundError, DamagedError):
                continue
        return cls()

    @classmethod
    def parse(cls, text: str) -> "History":
        """Read it from a checkpoint's metadata; raise DamagedError if it is none."""
        try:
            history = cls.model_validate_json(text)
        except ValueError:  # only where no checksum was there to notice it before
            raise DamagedError("its history was altered") from None
        if [record.epoch for record in history.epochs] != list(range(1, len(history.epochs) + 1)):
            raise DamagedError("its epochs are not in order")
        return history
