"""What the tracker is told of a study as a whole: its report, its arms, its best trial."""

from dataclasses import dataclass, field
from pathlib import Path

from adarelu_sweep.storing.places import Place


@dataclass(frozen=True)
class ArmCurves:
    """An arm's trials taken together, epoch by epoch.

    It becomes a run of its own, so that the tracker's default charts compare arms, a line each.
    """

    name: str
    """What people read: ``adarelu, vgg16_bn, mnist: mean of 10 seeds``."""
    arm: str
    params: dict[str, str]
    metrics: dict[str, list[float]]
    """Metric name to its value at every epoch, from epoch 1 on."""
    colour: str = ""
    """Its activation's, as ``#rrggbb``; the tracker's choice where it is empty."""


@dataclass(frozen=True)
class BestTrial:
    """The trial whose model is registered for the study."""

    key: str
    """The trial's key in the study (see ``TrialSnapshot``)."""
    folder: Path
    """Its own in the home, with what was delivered of it."""
    results: Place
    """Where its model lies."""
    description: str
    """Which trial it is, how it was chosen, and what that means for its accuracy."""


@dataclass(frozen=True)
class StudyReport:
    """The study's report as the tracker keeps it on the parent run."""

    folder: Path
    """Everything in it becomes an artifact under ``report/``."""
    note: str
    """Markdown: the summary table, for the top of the parent run's page."""
    arms: list[ArmCurves] = field(default_factory=list)
    best: BestTrial | None = None
    remark: str | None = None
    """What is to be said, in a line, where no model is registered though one was to be."""
