"""Processes that run a module of this package, and what they find when they import.

``python -m`` puts the current folder first on the path, where a file of a user's could take the
place of a library.
"""

import signal
import sys
from contextlib import suppress

# An option of Python's own, so that it shows in no environment and in no argument of ours.
_SEARCHED_LAST = "adarelu_sweep.current_folder_last"

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def own_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package."""
    option = ["-X", _SEARCHED_LAST] if _is_searched() else []
    return [sys.executable, "-P", *option, "-m", module, *arguments]


def search_current_folder_last() -> None:
    """Let modules of the current folder be found, as a user's components may be.

    Not where the user has asked Python for a safe path.
    """
    if _is_searched():
        sys.path.append("")


def die_with_parent() -> None:
    """Let the kernel end this process with the one that started it; on Linux only.

    Even while no thread of it runs.
    """
    if sys.platform == "linux":
        import ctypes  # here, because every command imports this module

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_searched() -> bool:
    return not sys.flags.safe_path or _SEARCHED_LAST in sys._xoptions
