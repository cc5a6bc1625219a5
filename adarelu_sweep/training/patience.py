"""Writing to a disk that may be full: training goes on, and what is to be kept waits for room."""

import time
from collections.abc import Callable

from adarelu_sweep.files import NO_ROOM

_PAUSE = 1.0  # seconds between two attempts


class PatientWriter:
    """Writes that may fail for want of room, and no harm done.

    Args:
        stop_requested: Asked while it waits whether to give up.
        say: Told once, in one line, that there is no room.
    """

    def __init__(self, stop_requested: Callable[[], bool], say: Callable[[str], None]) -> None:
        self._stop_requested = stop_requested
        self._say = say
        self._told = False

    def write(self, attempt: Callable[[], None], *, wait: bool) -> bool:
        """Make an attempt and return whether it succeeded.

        With ``wait`` it is repeated until there is room, or until asked to stop. Whatever else goes
        wrong is raised.
        """
        while True:
            try:
                attempt()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                self._tell(error)
            else:
                return True
            if not wait or self._stop_requested():
                return False
            time.sleep(_PAUSE)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"its checkpoint finds no room ({error.strerror}): training goes on, and it is "
                "written once there is room"
            )
