"""What a task asks before it uses its study's place."""

from adarelu_sweep.storing.marks import Fence
from adarelu_sweep.storing.places import Place, make_below, place_at
from adarelu_sweep.training.stopping import StopRequestedError


class Guard:
    """Lets a task use its study's place as long as that is there, and its supervisor's.

    Args:
        fence: What tells; None where results lie in the home, which needs none.
    """

    def __init__(self, fence: Fence | None) -> None:
        self._fence = fence
        self.superseded = False
        """Whether another supervisor was found to have taken the study."""

    def __call__(self) -> None:
        """Raise StorageError where the place is not there; StopRequestedError if superseded."""
        if self._fence is not None and (self.superseded or not self._fence.holds()):
            self.superseded = True
            raise StopRequestedError

    def make(self, folder: Place) -> None:
        """Make a trial's folder, but not the place itself, which may be gone for a while."""
        if self._fence is None:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            make_below(place_at(self._fence.place), folder)
