"""Which weights are kept of a trial, and when their file is written."""

from collections.abc import Callable
from functools import partial

from torch import nn

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.storing.places import Place, discard, discard_aside, write_whole
from adarelu_sweep.storing.waiting import awaited
from adarelu_sweep.training.description import Description, Pixels
from adarelu_sweep.training.history import MODEL, EpochRecord, Keep
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.snapshot import Snapshot


class KeptModel:
    """The model file in a trial's folder.

    Args:
        keep: The last epoch's weights, written at the end; the best one's (of equals the first),
            written whenever an epoch is better than what is kept; or none.
        folder: The trial's.
        settings: The trial.
        dataset: What it is trained on.
        check_stop: Called while a store is waited for, and may end that by an exception.
    """

    def __init__(
        self,
        keep: Keep,
        folder: Place,
        settings: TrialSettings,
        dataset: ResidentDataset,
        check_stop: Callable[[], None],
    ) -> None:
        self._keep = keep
        self._path = folder / MODEL
        self._settings = settings
        self._pixels = Pixels.of(dataset)
        self._accuracy = None
        if keep == "best":
            self._accuracy = awaited(folder, partial(_kept_accuracy, folder), check_stop)
        self._unwritten: tuple[Snapshot, Description] | None = None

    def offer(self, network: nn.Module, record: EpochRecord, *, last: bool) -> None:
        """Take the weights of an epoch if they are to be kept; nothing is written yet.

        ``last`` says that the trial ends with this epoch. An epoch may be offered twice.
        """
        accuracy = record.metrics[f"{self._settings.measured_on}/accuracy"]
        if self._keep == "best":
            if self._accuracy is not None and accuracy <= self._accuracy:
                return
            self._accuracy = accuracy
        elif self._keep == "none" or not last:
            return
        description = Description(
            settings=self._settings, pixels=self._pixels, epoch=record.epoch, accuracy=accuracy
        )
        self._unwritten = Snapshot(network.state_dict()), description

    def write(self) -> None:
        """Write what was taken and is not written yet."""
        if self._unwritten is not None:
            weights, description = self._unwritten
            write_whole(self._path, *weights.packed(description.as_metadata()))
            self._unwritten = None

    def tidy(self) -> None:
        """Remove, at the trial's end, what is not to be kept."""
        if self._keep == "none":
            discard(self._path)
        else:
            discard_aside(self._path)


def _kept_accuracy(folder: Place) -> float | None:
    """Return the accuracy of the weights that an earlier attempt kept, if they are whole."""
    try:
        description, _ = Description.read_whole(folder)
    except (FileNotFoundError, ValueError):
        return None
    return description.accuracy
