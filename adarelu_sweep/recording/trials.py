"""One trial as the Optuna book has it, its result, and how many are in which state."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import TrialState

from adarelu_sweep.components import Scalar
from adarelu_sweep.studies.plan import Cell

CELL = "cell"
"""The attribute that makes an Optuna trial one of the study: the key of its cell."""


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial reports: its last epoch, never its best."""

    accuracy: float
    """Percent, on the split that the trial is measured on."""
    loss: float | None
    """Mean cross entropy in nats, on the same; None where it is not finite."""
    epochs: int
    diverged: bool


@dataclass(frozen=True)
class LedgerTrial:
    """One trial as the ledger has it."""

    number: int
    cell: str
    state: TrialState
    attempts: int
    threads: int
    losses: int = 0
    """How many of the attempts ended with the loss of the worker."""
    tags: dict[str, str] = field(default_factory=dict)
    """Where and with what the last attempt runs, for the trial's run in MLflow."""
    result: TrialResult | None = None
    error: str | None = None
    params: dict[str, Scalar] = field(default_factory=dict)
    """What a search chose for it, by key."""
    _trial_id: int = field(default=-1, repr=False)


@dataclass(frozen=True)
class Counts:
    """How many trials a study has in each state; what has no trial yet waits."""

    total: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @classmethod
    def of(cls, total: int, states: Mapping[TrialState, int]) -> "Counts":
        """Return the counts of a study of ``total`` trials, from those that were begun by state."""
        complete = states.get(TrialState.COMPLETE, 0)
        pruned = states.get(TrialState.PRUNED, 0)
        failed = states.get(TrialState.FAIL, 0)
        running = states.get(TrialState.RUNNING, 0)
        waiting = total - complete - pruned - failed - running
        return cls(total, complete, pruned, failed, running, waiting)

    def without_running(self) -> "Counts":
        """Return the counts of a study that nobody supervises: what seems to run there waits."""
        return replace(self, running=0, waiting=self.waiting + self.running)


def attributes(cell: Cell, threads: int) -> dict[str, Any]:
    """Return what a trial carries from its making on; the cell's key makes it one of the study."""
    return {
        CELL: cell.key,
        "dataset": cell.settings.dataset,
        "network": cell.settings.network.label,
        "activation": cell.settings.activation.label,
        "seed": cell.settings.seed,
        "threads": threads,
        "attempts": 1,
    }


def ledger_trial(
    trial_id: int,
    number: int,
    state: TrialState,
    attributes: dict[str, Any],
    params: dict[str, Scalar],
) -> LedgerTrial:
    """Return what Optuna holds of a trial that has a cell."""
    result = attributes.get("result")
    return LedgerTrial(
        number=number,
        cell=attributes[CELL],
        state=state,
        attempts=attributes["attempts"],
        threads=attributes["threads"],
        losses=attributes.get("losses", 0),
        tags=attributes.get("tags", {}),
        result=TrialResult(**result) if result else None,
        error=attributes.get("error"),
        params=params,
        _trial_id=trial_id,
    )
