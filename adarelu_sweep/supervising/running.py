"""Running a study from its first worker to its last record: the supervisor and all around it."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console

from adarelu_sweep.datasets.origin import Origin
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.placing.places import Place
from adarelu_sweep.recording.databases import TakenError
from adarelu_sweep.recording.ledger import StudyLedger
from adarelu_sweep.secrets import in_one_line
from adarelu_sweep.signals import StopSignal
from adarelu_sweep.storing.marks import Fence
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.display import Display, TwoDisplays, log_display, make_display
from adarelu_sweep.supervising.log import open_log
from adarelu_sweep.supervising.supervisor import Ending, Supervisor, SupervisorInbox
from adarelu_sweep.tracking.connecting import connect
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.snapshot import RunStatus
from adarelu_sweep.tracking.study_report import StudyReport

Report = Callable[[StudyLedger, Ending], StudyReport]
"""Writes the report of a study that ended like this."""

Leave = Callable[[TextIO], None]
"""Leaves the terminal: what is shown from then on goes to this log alone."""

_RUN_STATUS: dict[str, RunStatus] = {
    "complete": "FINISHED",
    "failed": "FINISHED",
    "interrupted": "KILLED",
}
# Seconds without a delivery after which the rest waits for the next resume. The first is long
# enough for a server to come up; an interrupted sweep has to be gone within 10 s in all.
_PATIENCE = {"complete": 60.0, "failed": 60.0, "interrupted": 2.0}


@dataclass(frozen=True)
class Screen:
    """What the user sees of a run."""

    report: Report
    console: Console
    leave: Leave | None = None
    """Given where the terminal is to be left once the study runs."""


@dataclass(frozen=True)
class Surroundings:
    """Where a study runs."""

    home: Home
    place: Place
    data_origin: Origin
    tracking_uri: str | None
    """The tracking server's address; None for the home's own."""
    pack: int
    """How many trials a worker is to train at once; ``packing.AUTO`` for as many as are best."""
    fence: Fence | None
    """The hold of the place of its results; None where that is the home."""


def run(ledger: StudyLedger, agenda: Agenda, where: Surroundings, screen: Screen) -> Ending:
    """Train what is left of a study, whose lease the caller holds, and deliver what can be."""
    record = ledger.record
    name = record.study.name
    inbox: SupervisorInbox = SupervisorInbox()
    log = open_log(where.home.supervisor_log(name))
    logged = log_display(log, record.study.training.epochs)
    display = _display(screen, where.place.slots, record.study.training.epochs, log, logged)
    logged.say(f"process {os.getpid()} runs the study")
    delivery = Delivery(lambda: connect(where.home, record, where.tracking_uri), display.say)
    supervisor = Supervisor(
        agenda,
        where.place.launcher(inbox.put, where.home.log_folder(name), record.uid),
        inbox,
        where.place.slots,
        delivery,
        display,
        where.data_origin,
        record.study.execution,
        Packing(where.pack, where.home),
        ledger.patience,
        where.fence,
    )
    ending = Ending("interrupted")  # what an exception leaves behind
    delivered = False
    try:
        with display:
            if note := record.study.data.subset_note():
                display.say(note)
            ending = supervisor.run()
    except TakenError:
        ending = Ending("interrupted", at_once=True)  # its runs are another supervisor's by now
        raise
    finally:
        try:
            delivered = _conclude(ledger, ending, delivery, screen.report, display)
        except StopSignal as request:  # who does not want to wait is told what is left
            at_once = ending.state == "interrupted"
            ending = Ending("interrupted", request.number, at_once)
            with suppress(StopSignal):
                delivered = _conclude(ledger, ending, delivery, None, display)
        if not delivered:
            display.say(
                f"records not delivered to MLflow wait in {where.home.study_folder(name)}: "
                f"'adarelu-sweep resume {name}' delivers them"
            )
        logged.say(f"the study is {ending.state}")
    return ending


def _display(
    screen: Screen, slots: list[Slot], epochs: int, log: TextIO, logged: Display
) -> Display:
    if screen.leave is None:
        return TwoDisplays(make_display(screen.console, slots, epochs), logged)
    screen.leave(log)
    return logged


def _conclude(
    ledger: StudyLedger,
    ending: Ending,
    delivery: Delivery,
    report: Report | None,
    display: Display,
) -> bool:
    """Write the report and deliver what is left; return whether all of it arrived.

    Who asks to stop at once gets neither.
    """
    if ending.at_once:
        return False
    written = _written(report, ledger, ending, display)
    return delivery.finish(_RUN_STATUS[ending.state], written, patience=_PATIENCE[ending.state])


def _written(
    report: Report | None, ledger: StudyLedger, ending: Ending, display: Display
) -> StudyReport | None:
    """Write the report; what goes wrong with it must not keep the records from being delivered."""
    if report is None:
        return None
    try:
        return report(ledger, ending)
    except Exception as error:
        name = ledger.record.study.name
        said = in_one_line(error)
        display.say(f"the report is not written: {said}; 'adarelu-sweep report {name}' does it")
        return None
