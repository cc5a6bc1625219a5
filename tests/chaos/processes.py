"""The processes of a running sweep, found from outside, and signals to them."""

import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from adarelu_sweep.home import Home
from adarelu_sweep.tracking.server import find_server

_WORKER = "adarelu_sweep.launching.worker"


def workers(supervisor: int) -> list[psutil.Process]:
    """Return the workers of a supervisor."""
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(supervisor).children():
            with suppress(psutil.Error):
                if _WORKER in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


def server(home: Path) -> list[psutil.Process]:
    """Return the processes of the home's MLflow server; none if it is not up."""
    found = find_server(Home(home))
    return found.processes() if found else []


def everything(supervisor: int, home: Path) -> list[psutil.Process]:
    """Return the supervisor, whatever it has started, and the home's server."""
    found = {process.pid: process for process in server(home)}
    with suppress(psutil.Error):
        root = psutil.Process(supervisor)
        found |= {process.pid: process for process in (root, *root.children(recursive=True))}
    return list(found.values())


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to all of them, one right after the other."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
