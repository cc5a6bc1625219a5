"""What the tracker is told of a trial: where it stands, and where its results lie."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adarelu_sweep.storing.places import Place
from adarelu_sweep.training.settings import TrialSettings

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrialSnapshot:
    """The state that a trial's run in MLflow is to be brought to.

    Metrics are not in it: they are read from the history among the trial's results.
    """

    key: str
    """Tells the trial from every other of its study."""
    optuna_study: str
    """The Optuna study that has the trial: an arm's own, for a trial of its search."""
    number: int
    """The trial's number in it."""
    settings: TrialSettings
    folder: Path
    """In the home: what was delivered of it, and the traceback of one that failed."""
    results: Place
    """What its worker leaves: checkpoint, history, confusion matrix, model."""
    status: RunStatus
    tags: dict[str, str] = field(default_factory=dict)
    epochs: int = 0
    """How many the trial has had, where that is known from its result."""
