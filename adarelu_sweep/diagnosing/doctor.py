"""All checks, one after the other in what is told, at once in what is done.

Each runs in a thread that nobody waits for longer than its patience: a disk or a server that does
not answer delays neither the others nor the end.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from adarelu_sweep.datasets.origin import Origin
from adarelu_sweep.diagnosing import data, database, devices, installation, places, tracking_server
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.secrets import in_one_line

_PATIENCE = 15.0  # seconds; a tracking server is waited for 6


@dataclass(frozen=True)
class Check:
    """Something to look at."""

    area: str
    name: str
    look: Callable[[], Finding | Iterable[Finding]]
    patience: float = _PATIENCE
    """Seconds after which it is reported as one that gives no answer."""


def checks(home: Home, data_origin: Origin, tracking_uri: str | None) -> list[Check]:
    """Return what there is to look at.

    ``tracking_uri`` is the tracking server that was asked for, without credentials, or None for the
    home's own.
    """
    servers = (
        [Check("tracking", "server", partial(tracking_server.other_server, tracking_uri))]
        if tracking_uri
        else [Check("tracking", "home's server", partial(tracking_server.own_server, home))]
    )
    if not tracking_uri and (records := home.tracking_storage()):
        look = partial(tracking_server.other_server, records)
        servers.append(Check("tracking", "database", look))
    if home.storage is None:
        book = partial(database.optuna_database, home.optuna_db)
    else:
        book = partial(database.server_database, home.storage)
    kept = partial(places.storage, home, tracking_uri is None)
    elsewhere = (
        [Check("storage", "artifacts", partial(places.artifacts_elsewhere, home), 2 * _PATIENCE)]
        if tracking_uri is None and home.artifacts_file.exists()
        else []
    )
    return [
        Check("version", "all", installation.versions),
        Check("device", "processor", devices.processor),
        Check("device", "memory", devices.memory),
        Check("device", "torch", devices.torch_on_devices, devices.PATIENCE + _PATIENCE),
        Check("home", "folder", partial(places.home_folder, home)),
        Check("home", "disk", partial(places.free_disk, home)),
        Check("home", "file system", partial(places.home_filesystem, home)),
        Check("database", "optuna", book, database.PATIENCE),
        *servers,
        Check("storage", "folders", kept),
        *elsewhere,
        Check("storage", "checkpoints", partial(places.checkpoints_elsewhere, home), 2 * _PATIENCE),
        Check("data", "folder", partial(places.data_origin, data_origin), 2 * _PATIENCE),
        Check("data", "sets", partial(data.data_sets, data_origin), 2 * _PATIENCE),
    ]


def examine(wanted: Iterable[Check]) -> Iterator[Finding]:
    """Carry checks out, all at once, and return what each has found, in their order."""
    begun = [(check, _begin(check)) for check in wanted]
    start = time.monotonic()
    for check, answer in begun:
        try:
            left = check.patience - (time.monotonic() - start)
            yield from answer.get(timeout=max(0.0, left))
        except Empty:
            found = f"no answer within {check.patience:.0f} s"
            remedy = "see whether its disk, its server or its driver hangs"
            yield Finding(check.area, check.name, State.FAILED, found, remedy)


def _begin(check: Check) -> SimpleQueue[list[Finding]]:
    answer: SimpleQueue[list[Finding]] = SimpleQueue()
    Thread(target=lambda: answer.put(_findings(check)), daemon=True).start()
    return answer


def _findings(check: Check) -> list[Finding]:
    try:
        found = check.look()
        return [found] if isinstance(found, Finding) else list(found)
    except UserError as error:
        return [Finding(check.area, check.name, State.FAILED, str(error))]
    except Exception as error:  # a check that breaks has found something, too
        said = f"{type(error).__name__}: {in_one_line(error)}"
        return [Finding(check.area, check.name, State.FAILED, said)]
