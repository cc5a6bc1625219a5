"""A sweep in the background: a process of its own session that no terminal can end.

The command starts itself again and waits. The new process does what the command would do; what it
has to say before the study runs, refusals included, it says where the command would. Then it sends
its output to the log and tells the command, by one byte down a pipe, that it may go.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from adarelu_sweep.processes import own_command
from adarelu_sweep.supervising.log import take_output

_RUNS = b"\0"


def start_detached(
    verb: str, option: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, int | None]:
    """Start the command anew, and return once its study runs, or once it has ended.

    Args:
        verb: What the command is to do.
        option: The option that says down which pipe ``leave_terminal`` reports.
        arguments: The rest of the command line.
        environment: Its environment. Secrets go there: anybody can see the arguments.

    Returns:
        Its process id, and its exit code or None if the study runs.
    """
    receiving, sending = os.pipe()
    try:
        process = subprocess.Popen(
            own_command("adarelu_sweep", verb, f"{option}={sending}", *arguments),
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[sending],
            start_new_session=True,
        )
    finally:
        os.close(sending)
    try:
        with os.fdopen(receiving, "rb") as pipe:
            if pipe.read(1) == _RUNS:
                return process.pid, None
        return process.pid, process.wait()
    except BaseException:  # Ctrl-C, which does not reach the other session
        process.terminate()
        process.wait()
        raise


def leave_terminal(pipe: int, log: TextIO) -> None:
    """Send all output to the log, and tell the one who waits at the pipe that the study runs."""
    take_output(log)
    with suppress(OSError):  # it does not wait any longer
        os.write(pipe, _RUNS)
    os.close(pipe)
