"""The disk that a study will need: checkpoints while it trains, and the weights that are kept.

Networks are measured in a process of its own, because that takes torch. Where their size cannot be
known, nothing is said: a part of the user's own that cannot be built is the rehearsal's to explain.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.datasets.shape import shape_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.processes import own_command
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.wording import count, size

_PATIENCE = 60.0  # seconds; it takes 3, most of them for importing torch
_CHECKPOINTS = 3  # of a trial that trains: two whole ones, and one that is being written


@dataclass(frozen=True)
class DiskNeed:
    """What a study will need, in bytes."""

    trials: int
    """How many there are in all."""
    checkpoint: int
    """The largest one of a trial."""
    in_hand: int
    """How many trials are trained at once."""
    weights: int
    """Those of the finished trials; 0 where none are kept."""
    copies: int
    """How often these are stored in the home: once more among its own server's artifacts."""
    elsewhere: str | None = None
    """Where checkpoints and weights lie, if not in the home."""

    @property
    def in_training(self) -> int:
        """Checkpoints of all trials in hand."""
        return self.in_hand * _CHECKPOINTS * self.checkpoint

    @property
    def total(self) -> int:
        """All of it that the home is to hold."""
        return (0 if self.elsewhere else self.in_training) + self.copies * self.weights

    @classmethod
    def of(cls, study: Study, data_folder: Path, in_hand: int) -> "DiskNeed | None":
        """Return what a study needs; None where the networks' sizes cannot be known.

        ``in_hand`` is how many trials the workers could train at once, were there so many.
        """
        try:
            weights, checkpoint = _measure(study, data_folder)
        except _UnknownError:
            return None
        trials_per_arm = len(study.seeds()) + (study.search.trials if study.search else 0)
        trials = trials_per_arm * len(weights)
        return cls(
            trials,
            checkpoint,
            min(in_hand, trials),
            0 if study.execution.keep == "none" else trials_per_arm * sum(weights),
            (study.execution.checkpoints is None) + (not os.environ.get("MLFLOW_TRACKING_URI")),
            study.execution.checkpoints,
        )

    def lines(self, free: int | None) -> list[str]:
        """Say it, and what is free, if that is known; the last line is a warning if it is less."""
        where = self.elsewhere or "the home"
        lines = [
            f"  disk         checkpoints while it trains: up to {size(self.in_training)} in "
            f"{where}, of {count(self.in_hand, 'trial')} in hand {_CHECKPOINTS} of "
            f"{size(self.checkpoint)} each"
        ]
        if self.weights:
            lines.append(
                f"  disk         weights of {count(self.trials, 'finished trial')}: "
                f"{size(self.weights)} in {where}, and as much once more among MLflow's artifacts"
            )
        else:
            lines.append(
                "  disk         weights of finished trials: none are kept (execution.keep)"
            )
        if free is not None:
            lines.append(f"  disk         {size(free)} are free where the home lies")
            if self.total > free:
                lines.append(
                    f"Warning: the study needs about {size(self.total)} where {size(free)} are "
                    "free: make room, choose another --home, or keep fewer weights "
                    "(execution.keep)"
                )
        return lines


def free_bytes(home: Path) -> int | None:
    """Return the bytes that are free where a home is or will be; None if that cannot be known."""
    for folder in (home, *home.parents):
        if folder.is_dir():
            try:
                return shutil.disk_usage(folder).free
            except OSError:
                return None
    return None


class _UnknownError(Exception):
    """The sizes of the networks cannot be known."""


def _measure(study: Study, data_folder: Path) -> tuple[list[int], int]:
    """Return the bytes of every arm's weights, and of the largest checkpoint."""
    if study.search is not None:
        own = any(part.name not in ACTIVATIONS for part in study.matrix.activation)
        vary = ("network.", "activation.") if own else ("network.",)
        if any(key.startswith(vary) for key in study.search.space):
            raise _UnknownError
    parts = []
    for arm in study.arms():
        try:
            shape = shape_of(arm.dataset, data_folder)
        except UserError:  # the launch will say so
            raise _UnknownError from None
        components = {"network": arm.network, "activation": arm.activation}
        dumped = {kind: part.model_dump(mode="json") for kind, part in components.items()}
        parts.append({**dumped, "channels": shape.channels, "classes": shape.classes})
    measured = _ask(json.dumps(parts))
    copies = _copies(study)
    checkpoints = [one["weights"] + copies * one["trained"] for one in measured]
    return [one["weights"] for one in measured], max(checkpoints)


def _copies(study: Study) -> int:
    """Return how many numbers the optimizer keeps of a weight, at most: momentum, Adam's two."""
    arguments = study.training.optimizer.arguments
    if "momentum" not in arguments:
        return 2
    searched = study.search is not None and "training.optimizer.momentum" in study.search.space
    return int(searched or arguments["momentum"] != 0)


def _ask(parts: str) -> list[dict[str, int]]:
    try:
        done = subprocess.run(
            own_command("adarelu_sweep.training.sizes"),
            input=parts.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            env=environment(Slot(0, threads=1)),
        )
        answer: list[dict[str, int]] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError, ValueError):
        raise _UnknownError from None
    return answer
