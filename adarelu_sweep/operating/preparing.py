"""Data sets prepared by a process beside the workers, which import torch for seconds first."""

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adarelu_sweep.datasets.prepared_file import is_lacking
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.processes import own_command

_KILL_PATIENCE = 5.0  # seconds that a killed one has to be gone


@contextmanager
def prepared_meanwhile(names: Iterable[str], folder: Path) -> Iterator[None]:
    """Have the data sets of a folder prepared that are not; who is not done in the end is ended.

    Nobody needs it: workers wait for who prepares what they want, and else do it themselves.
    """
    process = _started([name for name in names if _is_lacking(name, folder)], folder)
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_PATIENCE)


def _is_lacking(name: str, folder: Path) -> bool:
    with suppress(OSError, UserError):
        return is_lacking(name, folder)
    return False


def _started(names: list[str], folder: Path) -> subprocess.Popen[bytes] | None:
    if names:
        with suppress(OSError):
            return subprocess.Popen(
                own_command("adarelu_sweep.datasets.preparing", str(folder), *names),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(Slot(0, threads=1)),
                process_group=0,  # Ctrl-C is the supervisor's to handle
            )
    return None
