"""Reading the logs of a study, while it runs too."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home

_PAUSE = 0.3  # seconds between two looks at a log that is followed


def find_log(home: Home, study: str, worker: int | None) -> Path:
    """Return the log of a study's supervisor or of a slot's workers; UserError if there is none."""
    path = home.supervisor_log(study) if worker is None else home.worker_log(study, worker)
    if path.is_file():
        return path
    if worker is None:
        raise UserError(f"study {study!r} has no log yet: there is one once it is run")
    logs = sorted(
        int(found.stem.removeprefix("worker-"))
        for found in home.log_folder(study).glob("worker-*.log")
        if found.stem.removeprefix("worker-").isdecimal()
    )
    known = ", ".join(map(str, logs)) or "none yet"
    raise UserError(f"study {study!r} has no log of a worker {worker}; there are: {known}")


def read_log(
    path: Path, lines: int | None = None, goes_on: Callable[[], bool] | None = None
) -> Iterator[str]:
    """Yield a log's text, piece by piece.

    Args:
        path: The log.
        lines: How many lines to begin with, from the end; None for all.
        goes_on: Given, what is written later is yielded, too, until it returns False.
    """
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from file if lines is None else deque(file, maxlen=lines)
        while goes_on is not None:
            over = not goes_on()  # asked first: what was written before that is read
            yield from file
            if over:
                return
            time.sleep(_PAUSE)
