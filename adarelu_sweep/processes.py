"""Processes that run a module of this package, and what they find when they import.

``python -m`` puts the current folder first on the path, where a file of a user's could take the
place of a library.
"""

import sys

# An option of Python's own, so that it shows in no environment and in no argument of ours.
_SEARCHED_LAST = "adarelu_sweep.current_folder_last"


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


def _is_searched() -> bool:
    return not sys.flags.safe_path or _SEARCHED_LAST in sys._xoptions
