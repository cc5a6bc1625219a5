"""The kill matrix: which signal goes to whom at which moment."""

import signal
from dataclasses import dataclass
from typing import Literal, get_args

Target = Literal["supervisor", "worker", "server", "everything"]
Moment = Literal[
    "start",  # of a trial
    "epoch",  # in its midst
    "checkpoint",  # is written, and not yet in its place
    "metrics",  # are not told yet, the checkpoint is in its place
    "artifacts",  # all but one are uploaded
    "books",  # Optuna's has a trial's result, and not yet that it is complete
    "end",  # a trial has its outcome, and its worker has not said so
    "report",  # is written in half
]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL)
TARGETS: tuple[Target, ...] = get_args(Target)
MOMENTS: tuple[Moment, ...] = get_args(Moment)


@dataclass(frozen=True)
class Case:
    """One cell of the matrix.

    In the report there are no workers: "worker" is then the process that registers the best model.
    """

    signal: signal.Signals
    target: Target
    moment: Moment

    def __str__(self) -> str:
        """Say what is done."""
        return f"{self.signal.name} to {self.target} at {self.moment}"

    @property
    def ends_the_sweep(self) -> bool:
        """Whether the study has to be resumed afterwards."""
        return self.target in {"supervisor", "everything"}

    @property
    def exit_codes(self) -> set[int]:
        """How a supervisor that got the signal may end."""
        if self.signal is signal.SIGKILL:
            return {-signal.SIGKILL}
        return {130} if self.signal is signal.SIGINT else {143}


def whole() -> dict[str, list[Case]]:
    """Return all cases as chains by name: one study suffers a signal to a target at all moments."""
    return {
        f"{number.name.lower()}-{target}": [Case(number, target, moment) for moment in MOMENTS]
        for number in SIGNALS
        for target in TARGETS
    }


def pairwise() -> dict[str, list[Case]]:
    """Return as few cases as hold every pair of signal, target and moment, a chain per target.

    The two moments at the end of a trial count as one here.
    """
    return {
        f"pairs-{target}": [
            Case(SIGNALS[(position + shift) % len(SIGNALS)], target, moment)
            for position, moment in enumerate(_moments_of(target))
        ]
        for shift, target in enumerate(TARGETS)
    }


def _moments_of(target: Target) -> list[Moment]:
    left_out = "end" if target in {"supervisor", "everything"} else "books"
    return [moment for moment in MOMENTS if moment != left_out]
