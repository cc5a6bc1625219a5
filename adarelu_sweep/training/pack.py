"""Training several trials of one arm together, each as if it were alone."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from adarelu_sweep.training.history import EpochRecord
from adarelu_sweep.training.loop import StopRequestedError, Trial


class PackError(Exception):
    """The code of one trial of a pack raised an exception, which is the cause.

    Attributes:
        trial: The one whose code it was.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(str(trial.folder))
        self.trial = trial


class Pack:
    """Trials that one worker trains together; each gets the numbers that it gets alone.

    Args:
        trials: Trials of one arm, with equal settings but for the seed.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)

    def train(
        self,
        stop_requested: Callable[[], bool],
        say: Callable[[Trial, str], None] = lambda _trial, _text: None,
    ) -> Iterator[tuple[Trial, EpochRecord | None]]:
        """Train every trial from where it stands to its outcome.

        Yields (trial, record) whenever an epoch's checkpoint is whole, and (trial, None) once the
        trial has its outcome.

        Raises StopRequestedError after the steps in hand once ``stop_requested`` says so, and
        PackError where one trial's code raises.
        """
        # In turn, an epoch each: it begins with the random state that belongs to it.
        training = {
            trial: trial.train(stop_requested, partial(say, trial)) for trial in self._trials
        }
        while training:
            for trial, epochs in list(training.items()):
                try:
                    record = next(epochs, None)
                except StopRequestedError:
                    raise
                except Exception as error:
                    raise PackError(trial) from error
                if record is None:
                    del training[trial]
                yield trial, record
