"""Launching and resuming a study: everything that comes before and after the supervisor's loop."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from optuna.trial import TrialState
from rich.console import Console

from adarelu_sweep._version import __version__
from adarelu_sweep.datasets.sources import check, fetch
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import LocalLauncher
from adarelu_sweep.signals import StopSignal
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.display import Display, TwoDisplays, log_display, make_display
from adarelu_sweep.supervising.gpus import choose_gpus
from adarelu_sweep.supervising.lease import Lease
from adarelu_sweep.supervising.ledger import Ledger, StudyLedger
from adarelu_sweep.supervising.log import open_log
from adarelu_sweep.supervising.rehearsing import rehearse
from adarelu_sweep.supervising.slots import available_cores, make_slots
from adarelu_sweep.supervising.supervisor import Ending, Supervisor, SupervisorInbox
from adarelu_sweep.tracking import authentication
from adarelu_sweep.tracking.address import (
    problem_with,
    require_answer,
    take_credentials,
    with_password,
)
from adarelu_sweep.tracking.connecting import connect, given_address
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.secrets import without_password
from adarelu_sweep.tracking.snapshot import RunStatus
from adarelu_sweep.tracking.study_report import StudyReport

Report = Callable[[StudyLedger, "Ending"], StudyReport]
"""Writes the report of a study that ended like this."""

Extend = Callable[[StudyRecord], StudyRecord]
"""Returns what a study is to be from now on; raises UserError where that cannot be."""

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

_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


@dataclass(frozen=True)
class Machine:
    """What a user says of where to train; None is the default of each."""

    gpus: str | None = None
    workers: int | None = None
    data_folder: Path | None = None

    def slots(self, remembered: StudyRecord | None, console: Console) -> list[Slot]:
        """Return the slots, with warnings shown.

        A resume that says nothing of its own takes what the launch said, and its threads, because
        the numbers of a trial depend on them.
        """
        gpus, warnings = choose_gpus(self.gpus or (remembered.gpus if remembered else None))
        for warning in warnings:
            console.print(f"Warning: {warning}", **_PLAIN)
        if remembered is None or self.workers is not None:
            return make_slots(gpus, self.workers, available_cores())
        slots = make_slots(gpus, remembered.workers, available_cores())
        return [Slot(s.index, remembered.threads, s.gpu, s.name) for s in slots]


def launch(
    study: Study,
    source: str,
    home: Home,
    machine: Machine,
    tracking_uri: str | None,
    report: Report,
    console: Console,
    leave: Leave | None = None,
) -> tuple[StudyLedger, Ending]:
    """Record a new study and run it; raise UserError, with nothing recorded, on bad input.

    ``leave`` is given where the terminal is to be left once the study runs.
    """
    home.create()
    ledger = Ledger(home.optuna_db)
    Lease(home.study_folder(study.name), study.name).refuse_holder()
    ledger.refuse_existing(study.name)
    slots = machine.slots(None, console)
    if tracking_uri is not None:
        tracking_uri = take_credentials(with_password(tracking_uri))
        require_answer(tracking_uri)
    elif authentication.is_on(home):
        authentication.require_credentials()
    data_folder = home.data_folder(machine.data_folder)
    require_data(study, data_folder, console)
    rehearse(study, data_folder)
    record = StudyRecord(
        uid=uuid.uuid4().hex,
        study=study,
        source=source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        tracking_uri=without_password(tracking_uri) if tracking_uri else None,
        data_folder=str(data_folder) if machine.data_folder else None,
        gpus=machine.gpus,
        workers=machine.workers,
        threads=slots[0].threads,
    )
    with Lease(home.study_folder(study.name), study.name):
        _refuse_leftovers(home.study_folder(study.name))
        study_ledger = ledger.create(record)
        agenda = Agenda(study_ledger, home)
        run = _run(
            study_ledger,
            agenda,
            home,
            slots,
            data_folder,
            tracking_uri,
            report,
            console,
            leave,
        )
        return study_ledger, run


def resume(
    name: str,
    home: Home,
    machine: Machine,
    report: Report,
    console: Console,
    leave: Leave | None = None,
    extend: Extend | None = None,
    retry_failed: bool = False,
) -> tuple[StudyLedger, Ending]:
    """Run what is left of a study, and deliver what is left to deliver.

    ``leave`` is given where the terminal is to be left once the study runs; ``extend`` where
    something is added to its plan, which is replaced once all that can be refused is known. If
    ``retry_failed``, the trials that failed are left to be done, too.
    """
    ledger = Ledger.existing(home.optuna_db)
    ledger.open(name)  # without a study there is to be no lease
    with Lease(home.study_folder(name), name):
        study_ledger = ledger.open(name)
        record = extend(study_ledger.record) if extend else study_ledger.record
        is_new = record.study != study_ledger.record.study
        study_ledger.repair()
        agenda = Agenda(study_ledger, home)
        if retry_failed:
            agenda.retry_failed()
        if not is_new and (ending := _settled(agenda, home.study_folder(name))):
            return study_ledger, ending
        slots = machine.slots(record, console)
        tracking_uri = given_address(record)
        _warn_of_silence(tracking_uri, console)
        remembered = Path(record.data_folder) if record.data_folder else None
        data_folder = home.data_folder(machine.data_folder, remembered)
        require_data(record.study, data_folder, console)
        rehearse(record.study, data_folder)
        if is_new:
            agenda.keep_confirmed()
            study_ledger = ledger.extend(record)
            agenda = Agenda(study_ledger, home)
        run = _run(
            study_ledger,
            agenda,
            home,
            slots,
            data_folder,
            tracking_uri,
            report,
            console,
            leave,
        )
        return study_ledger, run


def require_data(study: Study, data_folder: Path, console: Console) -> None:
    """Make sure that every data set of a study is there and whole; download what is not."""
    for name in study.matrix.dataset:
        if not check(name, data_folder).present:
            console.print(f"Fetching {name} into {data_folder}", **_PLAIN)
            fetch(name, data_folder)


def _warn_of_silence(tracking_uri: str | None, console: Console) -> None:
    """Say that the tracking server does not answer; a study that was begun goes on without it."""
    if tracking_uri is not None and (problem := problem_with(tracking_uri)):
        said = problem.partition(": start it")[0]
        console.print(f"Warning: {said}; what is trained waits in the home for it", **_PLAIN)


def _refuse_leftovers(folder: Path) -> None:
    """Raise UserError where checkpoints lie that are not this study's: they would be taken up."""
    if any(not path.name.startswith("lease.") for path in folder.iterdir()):
        raise UserError(
            f"{folder} holds trials of a study that the Optuna database does not know: "
            "move them away, or launch under another --name"
        )


def _settled(agenda: Agenda, folder: Path) -> Ending | None:
    """Return how a study ended if nothing is left to train or to deliver."""
    if not Delivered.is_settled(folder, "FINISHED"):
        return None
    if agenda.left():
        return None
    for job in agenda.jobs():
        status: RunStatus = "FAILED" if job.trial.state is TrialState.FAIL else "FINISHED"
        if not Delivered.is_settled(job.folder, status):
            return None
    return Ending("failed" if agenda.has_failed() else "complete")


def _run(
    ledger: StudyLedger,
    agenda: Agenda,
    home: Home,
    slots: list[Slot],
    data_folder: Path,
    tracking_uri: str | None,
    report: Report,
    console: Console,
    leave: Leave | None,
) -> Ending:
    record = ledger.record
    name, epochs = record.study.name, record.study.training.epochs
    inbox: SupervisorInbox = SupervisorInbox()
    log = open_log(home.supervisor_log(name))
    logged = log_display(log, epochs)
    if leave is None:
        display: Display = TwoDisplays(make_display(console, slots, epochs), logged)
    else:
        leave(log)
        display = logged
    logged.say(f"process {os.getpid()} runs the study")
    delivery = Delivery(lambda: connect(home, record, tracking_uri), display.say)
    supervisor = Supervisor(
        agenda,
        LocalLauncher(inbox.put, home.log_folder(name)),
        inbox,
        slots,
        delivery,
        display,
        data_folder,
        record.study.execution,
        ledger.patience,
    )
    ending = Ending("interrupted")  # what an exception leaves behind
    delivered = False
    try:
        with display:
            if note := record.study.data.subset_note():
                display.say(note)
            ending = supervisor.run()
    finally:
        try:
            delivered = _conclude(ledger, ending, delivery, report, display)
        except StopSignal as request:  # who does not want to wait is told what is left
            at_once = ending.state == "interrupted"
            ending = Ending("interrupted", request.number, at_once)
            with suppress(StopSignal):
                delivered = _conclude(ledger, ending, delivery, None, display)
        if not delivered:
            display.say(
                f"records not delivered to MLflow wait in {home.study_folder(name)}: "
                f"'adarelu-sweep resume {name}' delivers them"
            )
        logged.say(f"the study is {ending.state}")
    return ending


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        name = ledger.record.study.name
        display.say(f"the report is not written: {reason}; 'adarelu-sweep report {name}' does it")
        return None
