"""What the tracker is told of a trial, from what the ledger and its worker say."""

from math import isfinite

from optuna.trial import TrialState

from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.messages import Ready
from adarelu_sweep.recording.trials import LedgerTrial, TrialResult
from adarelu_sweep.supervising.agenda import Job
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.training.history import History

RUN_STATUS: dict[TrialState, RunStatus] = {
    TrialState.WAITING: "KILLED",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAIL: "FAILED",
}


def snapshot_of(job: Job, status: RunStatus) -> TrialSnapshot:
    """Return the state that the run of a trial is to be brought to."""
    tags = dict(job.trial.tags)
    if status in {"FINISHED", "FAILED"}:
        tags["outcome"] = _outcome(job.trial)
    return TrialSnapshot(
        key=job.key,
        optuna_study=job.book.name,
        number=job.trial.number,
        settings=job.cell.settings,
        folder=job.folder,
        results=job.results,
        status=status,
        epochs=job.trial.result.epochs if job.trial.result else 0,
        tags=tags,
    )


def attempt_tags(job: Job, slot: Slot, about: Ready, pairing: dict[str, str]) -> dict[str, str]:
    """Return where and with what an attempt at a trial runs."""
    return {
        "attempts": str(job.trial.attempts),
        "threads": str(job.trial.threads),
        "pack": str(job.pack),
        "host": about.host,
        "device": about.device,
        "slot": f"{slot.index}: {slot.name}",
        **{f"pairing.{name}": digest for name, digest in pairing.items()},
        **{f"version.{name}": version for name, version in about.versions.items()},
    }


def result_of(history: History, split: str) -> TrialResult:
    """Return what a finished trial reports: the figures of its last epoch on a split."""
    last = history.epochs[-1].metrics
    loss = last[f"{split}/loss"]
    return TrialResult(
        accuracy=last[f"{split}/accuracy"],
        loss=loss if isfinite(loss) else None,
        epochs=len(history.epochs),
        diverged=history.outcome == "diverged",
    )


def _outcome(trial: LedgerTrial) -> str:
    if trial.result is None:
        return "failed"
    if trial.state is TrialState.PRUNED:
        return "pruned"
    return "diverged" if trial.result.diverged else "complete"
