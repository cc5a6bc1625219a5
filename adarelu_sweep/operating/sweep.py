"""Launching and resuming a study: what is made sure of before it runs."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.trial import TrialState
from rich.console import Console

from adarelu_sweep._version import __version__
from adarelu_sweep.datasets.origin import Origin, brought
from adarelu_sweep.datasets.read_ahead import read_ahead
from adarelu_sweep.datasets.sources import check, fetch
from adarelu_sweep.errors import UserError
from adarelu_sweep.filesystems import home_warnings
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.operating.advice import advice
from adarelu_sweep.operating.rehearsing import rehearse
from adarelu_sweep.placing.claims import Claims
from adarelu_sweep.placing.gpus import choose_gpus
from adarelu_sweep.placing.packing import AUTO
from adarelu_sweep.placing.places import LauncherName, Place, on_ray, on_this_machine
from adarelu_sweep.placing.slots import slots_for
from adarelu_sweep.recording.belonging import (
    LAUNCHED,
    has_runs_elsewhere,
    keep_launch,
    require_own,
    whereabouts,
)
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.patience import no_room_explained
from adarelu_sweep.secrets import without_password
from adarelu_sweep.storing.objects import ObjectPath
from adarelu_sweep.storing.places import credentials_for, place_at, require_usable
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.results_places import take_place
from adarelu_sweep.supervising.running import Screen, Surroundings, run
from adarelu_sweep.supervising.supervisor import Ending
from adarelu_sweep.tracking import authentication
from adarelu_sweep.tracking.address import (
    problem_with,
    require_answer,
    take_credentials,
    with_password,
)
from adarelu_sweep.tracking.connecting import given_address
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.snapshot import RunStatus

Extend = Callable[[StudyRecord], StudyRecord]
"""Returns what a study is to be from now on; raises UserError where that cannot be."""

_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


@dataclass(frozen=True)
class Machine:
    """What a user says of where to train; None is the default of each."""

    gpus: str | None = None
    workers: int | None = None
    data_origin: str | None = None
    pack: int | None = None
    """How many trials a worker is to train at once, or ``packing.AUTO``."""
    launcher: LauncherName | None = None
    ray_address: str | None = None
    gpus_per_worker: float | None = None

    def place(
        self,
        study: Study,
        origin: Origin,
        remembered: StudyRecord | None,
        console: Console,
        claims: Claims,
    ) -> Place:
        """Return where the workers are to run; what is not said anew is as at launch."""
        checkpoints = study.execution.checkpoints
        granted = credentials_for(checkpoints, str(origin))
        name = self.launcher or (remembered.launcher if remembered else "local")
        if name == "local":
            if self.ray_address is not None or self.gpus_per_worker is not None:
                raise UserError("--ray-address and --gpus-per-worker need --launcher ray")
            return on_this_machine(self.slots(study, remembered, console, claims), granted)

        def given(what: str) -> Any:
            own = getattr(self, what)
            return getattr(remembered, what, None) if own is None else own

        threads = remembered.threads if remembered and self.workers is None else None
        share = given("gpus_per_worker")
        share = 1.0 if share is None else share
        address, gpus, workers = (given(each) for each in ("ray_address", "gpus", "workers"))
        needs_home = not credentials_for(checkpoints)
        return on_ray(address, gpus, share, workers, threads, granted, needs_home)

    def slots(
        self, study: Study, remembered: StudyRecord | None, console: Console, claims: Claims
    ) -> list[Slot]:
        """Return the slots, with warnings shown and the GPUs claimed.

        A resume that says nothing of its own takes what the launch said, and its threads, because
        the numbers of a trial depend on them.
        """
        asked = self.gpus or (remembered.gpus if remembered else None)
        gpus, warnings = choose_gpus(asked)
        taken: dict[str, str] = {}
        while more := claims.take(gpu.uuid for gpu in gpus):  # another study was there before
            taken |= more
            gpus, warnings = choose_gpus(asked, taken)
        for warning in warnings:
            console.print(f"Warning: {warning}", **_PLAIN)
        if remembered is None or self.workers is not None:
            return slots_for(study, gpus, self.workers)
        return slots_for(study, gpus, remembered.workers, remembered.threads)


def launch(
    study: Study,
    source: str,
    home: Home,
    machine: Machine,
    tracking_uri: str | None,
    screen: Screen,
    bench: str = "adarelu-sweep bench",
) -> tuple[StudyLedger, Ending]:
    """Record a new study and run it; raise UserError, with nothing recorded, on bad input.

    ``bench`` is the command that measures the study's arms.
    """
    home.create()
    _warn_of_home(home, screen.console)
    ledger = Ledger(home.database)
    Lease(home.study_folder(study.name), study.name).refuse_holder()
    ledger.refuse_existing(study.name)
    with no_room_explained(home.root), Claims(home, study.name) as claims:
        _make_place(study)
        origin = home.data_origin(machine.data_origin)
        place = machine.place(study, origin, None, screen.console, claims)
        if tracking_uri is not None:
            tracking_uri = take_credentials(with_password(tracking_uri))
            require_answer(tracking_uri)
        elif authentication.is_on(home):
            authentication.require_credentials()
        rehearse(study, require_data(study, origin, screen.console))
        pack = AUTO if machine.pack is None else machine.pack
        _advise(advice(study, place.slots, pack, home, bench), screen.console)
        # A store is the study's, wherever it is resumed; a folder that nobody named is the home's.
        is_kept = machine.data_origin or isinstance(origin, ObjectPath)
        record = StudyRecord(
            uid=uuid.uuid4().hex,
            study=study,
            source=source,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            tracking_uri=without_password(tracking_uri) if tracking_uri else None,
            data_folder=str(origin) if is_kept else None,
            gpus=machine.gpus,
            workers=machine.workers,
            threads=place.threads,
            pack=pack,
            home=whereabouts(home),
            launcher=machine.launcher or "local",
            ray_address=machine.ray_address,
            gpus_per_worker=machine.gpus_per_worker,
        )
        with Lease(home.study_folder(study.name), study.name), ledger.owned(study.name):
            _refuse_leftovers(home.study_folder(study.name))
            keep_launch(record, home)
            fence = take_place(record, new=True)  # first: no study is without its mark
            with FileLock(home.switch_lock):
                home.require_unmoved()
                home.keep_storage()
                study_ledger = ledger.create(record)
            agenda = Agenda(study_ledger, home)
            where = Surroundings(home, place, origin, tracking_uri, pack, fence)
            return study_ledger, run(study_ledger, agenda, where, screen)


def resume(
    name: str,
    home: Home,
    machine: Machine,
    screen: Screen,
    extend: Extend | None = None,
    retry_failed: bool = False,
    bench: str = "adarelu-sweep bench",
) -> tuple[StudyLedger, Ending]:
    """Run what is left of a study, and deliver what is left to deliver.

    ``extend`` is given where something is added to its plan, which is replaced once all that can be
    refused is known. If ``retry_failed``, the trials that failed are left to be done, too, from
    then on. ``bench`` is the command that measures the study's arms.
    """
    ledger = Ledger.existing(home.database)
    require_own(ledger.open(name), home)  # without a study there is to be no lease
    _warn_of_home(home, screen.console)
    lease = Lease(home.study_folder(name), name)
    with (
        no_room_explained(home.root),
        lease,
        ledger.owned(name),
        Claims(home, name) as claims,
    ):
        home.require_unmoved()
        study_ledger = ledger.open(name)
        record = extend(study_ledger.record) if extend else study_ledger.record
        is_new = record.study != study_ledger.record.study
        study_ledger.repair()
        agenda = Agenda(study_ledger, home)
        retries = retry_failed and agenda.has_failed()
        if not (is_new or retries) and (ending := _settled(agenda, home.study_folder(name))):
            return study_ledger, ending
        _warn_of_runs_elsewhere(record, home, screen.console)
        fence = take_place(record)
        origin = home.data_origin(machine.data_origin, record.data_folder)
        place = machine.place(record.study, origin, record, screen.console, claims)
        tracking_uri = given_address(record)
        _warn_of_silence(tracking_uri, screen.console)
        rehearse(record.study, require_data(record.study, origin, screen.console))
        if is_new:
            agenda.keep_confirmed()
            study_ledger = ledger.extend(record)
            agenda = Agenda(study_ledger, home)
        if retry_failed:
            agenda.retry_failed()
            agenda = Agenda(study_ledger, home)  # a search that goes on is confirmed only later
        pack = record.pack if machine.pack is None else machine.pack
        if agenda.left():
            _advise(advice(record.study, place.slots, pack, home, bench), screen.console)
        where = Surroundings(home, place, origin, tracking_uri, pack, fence)
        return study_ledger, run(study_ledger, agenda, where, screen)


def require_data(study: Study, origin: Origin, console: Console) -> Path:
    """Make sure that every data set of a study is there and whole; return the folder that has them.

    What a folder lacks is downloaded; what is in a store is copied to this machine. From then on
    it is on its way from the disk, for the workers, which have much to import first.
    """
    say = partial(console.print, **_PLAIN)
    folder = brought(study.matrix.dataset, origin, say)
    for name in study.matrix.dataset:
        if not check(name, folder).present:
            say(f"Fetching {name} into {folder}")
            fetch(name, folder)
    read_ahead(study.matrix.dataset, folder)
    return folder


def _make_place(study: Study) -> None:
    """Make sure that checkpoints can be kept where the study has its own place for them."""
    if study.execution.checkpoints is not None:
        require_usable(place_at(study.execution.checkpoints), new=True)


def _advise(lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(line, **_PLAIN)


def _warn_of_home(home: Home, console: Console) -> None:
    for warning in home_warnings(home.root):
        console.print(f"Warning: {warning}", **_PLAIN)


def _warn_of_runs_elsewhere(record: StudyRecord, home: Home, console: Console) -> None:
    """Say that what is delivered from now on goes to another MLflow server than what was."""
    if has_runs_elsewhere(record, home):
        console.print(
            f"Warning: study {record.study.name!r} was launched in the home {record.home}, whose "
            "MLflow server has its runs so far; from now on they go to that of this home",
            **_PLAIN,
        )


def _warn_of_silence(tracking_uri: str | None, console: Console) -> None:
    """Say that the tracking server does not answer; a study that was begun goes on without it."""
    if tracking_uri is not None and (problem := problem_with(tracking_uri)):
        said = problem.partition(": start it")[0]
        console.print(f"Warning: {said}; what is trained waits in the home for it", **_PLAIN)


def _refuse_leftovers(folder: Path) -> None:
    """Raise UserError where checkpoints lie that are not this study's: they would be taken up."""
    ours = ("lease.", LAUNCHED)
    if any(not path.name.startswith(ours) for path in folder.iterdir()):
        raise UserError(
            f"{folder} holds trials of a study that the Optuna database does not know: "
            "move them away, or launch under another --name"
        )


def _settled(agenda: Agenda, folder: Path) -> Ending | None:
    """Return how a study ended if nothing is left to train or to deliver."""
    if not Delivered.is_settled(folder, agenda.uid, "FINISHED"):
        return None
    if agenda.left():
        return None
    for job in agenda.jobs():
        status: RunStatus = "FAILED" if job.trial.state is TrialState.FAIL else "FINISHED"
        if not Delivered.is_settled(job.folder, agenda.uid, status):
            return None
    return Ending("failed" if agenda.has_failed() else "complete")
