"""What the tracker is told of a trial: where it stands, and where its results lie."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adarelu_sweep.training.settings import TrialSettings

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrialSnapshot:
    """The state that a trial's run in MLflow is to be brought to.

    Metrics are not in it: they are read from the history in the trial's folder.
    """

    key: str
    """Tells the trial from every other of its study."""
    optuna_study: str
    """The Optuna study that has the trial: an arm's own, for a trial of its search."""
    number: int
    """The trial's number in it."""
    settings: TrialSettings
    folder: Path
    status: RunStatus
    tags: dict[str, str] = field(default_factory=dict)
