"""Training several trials together: they take turns, step by step.

On a GPU each has a stream and captured steps of its own, so that the kernels of one fill what those
of another leave idle. Nothing is stacked or shared but the data set: a trial does just what it does
alone, whoever is in the pack, and joins or leaves it without a trace in the others. To the last bit
that is the same where algorithms are (on a GPU cuDNN may choose them by time in every process).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from adarelu_sweep.training.history import EpochRecord
from adarelu_sweep.training.loop import OVER, Trial
from adarelu_sweep.training.stopping import StopRequestedError


class PackError(Exception):
    """One trial's code raised an exception, which is the cause of this one.

    Attributes:
        trial: whose code it was.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(f"a trial with seed {trial.settings.seed}")
        self.trial = trial


class Pack:
    """Trials that one worker trains together; each gets the numbers that it gets alone."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)

    def train(
        self, stop_requested: Callable[[], bool], say: Callable[[Trial, str], None]
    ) -> Iterator[tuple[Trial, EpochRecord | None]]:
        """Train all of them to their outcomes.

        Yields a trial and its record whenever an epoch's checkpoint is whole, and a trial and None
        once it has its outcome. ``say`` is told what the user is to know of a trial.

        Raises StopRequestedError after the steps in hand once ``stop_requested`` says so, and
        PackError with what else one of them raises. Nothing is being written any more then.
        """
        turns = {trial: trial.turns(stop_requested, partial(say, trial)) for trial in self._trials}
        stopped = False
        try:
            while turns:
                for trial in list(turns):
                    try:
                        with trial.lane.turn():
                            record = next(turns[trial], OVER)
                    except StopRequestedError:  # the others come to it, too
                        stopped = True
                        del turns[trial]
                        continue
                    except Exception as error:
                        raise PackError(trial) from error
                    if record is OVER:
                        del turns[trial]
                        yield trial, None
                    elif isinstance(record, EpochRecord):
                        yield trial, record
        finally:
            for others in turns.values():
                others.close()
        if stopped:
            raise StopRequestedError
