"""Deleting a study with all that belongs to it; what was cut off can be repeated."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.recording.belonging import LAUNCHED, require_own, require_own_runs
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.patience import NoRoomError, no_room_explained
from adarelu_sweep.storing.marks import MARK, put_mark
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import remove_all
from adarelu_sweep.tracking import artifact_place
from adarelu_sweep.tracking.address import require_answer
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.connecting import given_address
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.wording import count, size

if TYPE_CHECKING:
    from adarelu_sweep.tracking.removal import StudyRecords


class Deletion:
    """A study that is to be deleted; making one changes nothing.

    Args:
        name: The study's name.
        home: Where it is.
        keep_runs: Leave what MLflow holds of it alone.
        keep_checkpoints: Leave what lies in the study's own place alone, and whether that is there.

    Raises UserError if there is no such study, if it is being run, or if its tracking server, its
    own place or that of the home's artifacts cannot be reached.
    """

    def __init__(
        self, name: str, home: Home, keep_runs: bool, keep_checkpoints: bool = False
    ) -> None:
        self._name = name
        self._home = home
        self._keep_runs = keep_runs
        self._keep_checkpoints = keep_checkpoints
        self._lease = Lease(home.study_folder(name), name, nameless=True)
        self._lease.refuse_holder()
        with _opened(home) as ledger:
            study = self._open(ledger)
            self._uid = study.record.uid
            if keep_checkpoints and study.record.place is None:
                raise UserError(
                    f"the checkpoints of study {name!r} lie in the home and go with it: leave "
                    "--keep-checkpoints out"
                )
            self._place = None if keep_checkpoints else study.record.place
            self._look(study)

    def __str__(self) -> str:
        """Say what goes, in one line."""
        folders = self._folders()
        if self._records is None:
            runs = "no run in MLflow"
        else:
            runs = f"{count(len(self._records.active()), 'run')} in MLflow"
            if self._elsewhere is None:
                places = self._records.places(self._home)
                folders += [place for place in places if isinstance(place, Path)]
        files = size(sum(map(_size, folders)))
        elsewhere = f", and what lies in {self._place}" if self._place else ""
        return f"study {self._name!r}: {count(self._trials, 'trial')}, {runs}, {files}{elsewhere}"

    def carry_out(self) -> str | None:
        """Delete it; return, in one line, what is left to be done by somebody else, or None.

        What there is of it is looked at again, because much may have happened while a user was
        asked; raises UserError, and deletes nothing, where it is not the same study any more.

        Optuna's record goes last, so that a deletion that was cut off can be repeated, and what
        fills the disk goes before MLflow's records, whose removal needs room. After it goes only
        the mark of the study's own place, without which nobody could tell what was removed there.
        """
        with self._lease, _opened(self._home) as ledger, ledger.owned(self._name):
            self._home.require_unmoved()
            study = self._open_again(ledger)
            self._look(study)
            self._begin(ledger)
            if self._place is not None:
                with suppress(OSError):  # workers of a supervisor that was cut off write no more
                    put_mark(self._place, self._uid)
            for folder in (*self._folders()[:-1], *self._trial_folders()):
                _empty(folder)
            if self._place is not None:
                with _removal_explained():
                    remove_all(self._place, but=MARK)
                    study.record.require_place()  # it was there all the time
            note = self._delete_records()
            _empty(self._home.study_folder(self._name))
            with no_room_explained(self._home.shown_database):
                ledger.delete(self._name)
            (self._home.study_folder(self._name) / LAUNCHED).unlink(missing_ok=True)
            self._lease.abolish()
        if self._place is not None:
            try:
                remove_all(self._place)
            except OSError:
                note = "; ".join(filter(None, [note, f"an empty {self._place} is left"]))
        return note

    def _open(self, ledger: Ledger) -> StudyLedger:
        study = ledger.open(self._name, half_deleted=True)
        if not ledger.is_half_deleted(self._name):
            require_own(study, self._home)
        return study

    def _open_again(self, ledger: Ledger) -> StudyLedger:
        try:
            study = self._open(ledger)
        except UserError:
            self._lease.abolish()  # it may be that the lease alone has made the folder
            raise
        if study.record.uid != self._uid:
            raise UserError(
                f"study {self._name!r} was deleted and launched anew meanwhile: if that is to go, "
                "too, repeat the command"
            )
        return study

    def _look(self, study: StudyLedger) -> None:
        """See what there is of the study."""
        if not self._keep_checkpoints:
            _require_place(study)
        self._elsewhere = study.record.tracking_uri
        self._records = None if self._keep_runs else _records(study, self._home)
        books = [study, *study.searches()]
        self._trials = sum(len(book.trials()) for book in books)

    def _begin(self, ledger: Ledger) -> None:
        """Mark the study; where there is no room for that, files of its own make it, one by one.

        Those that are missed least go first: if it is cut off then, hardly anything is lost.
        """
        folders = self._folders()
        files = (path for folder in folders for path in sorted(folder.rglob("*")) if _is_own(path))
        while True:
            try:
                with no_room_explained(self._home.shown_database):
                    return ledger.begin_deletion(self._name)
            except NoRoomError:
                if (file := next(files, None)) is None:
                    raise
                with _removal_explained():
                    file.unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        home, name = self._home, self._name
        return [home.report_folder(name), home.log_folder(name), home.study_folder(name)]

    def _trial_folders(self) -> list[Path]:
        folder = self._home.study_folder(self._name)
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]

    def _delete_records(self) -> str | None:
        if self._records is None:
            return None
        if self._elsewhere is None:
            with _clear_trouble(self._name):
                self._records.remove(self._home)
            return self._shared_note()
        with _clear_trouble(self._name):
            self._records.delete()
        return (
            f"the runs are deleted at {self._elsewhere}; "
            "'mlflow gc' there, which is its owner's to run, removes them for good"
        )

    def _shared_note(self) -> str | None:
        assert self._records is not None
        if not self._records.shared:
            return None
        return f"the experiment {self._name!r} stays in MLflow: it holds runs of others"


@contextmanager
def _opened(home: Home) -> Iterator[Ledger]:
    """Open the ledger, on a full disk too: deleting is how a user makes room."""
    try:
        ledger = Ledger.existing(home.database)
    except NoRoomError:
        ledger = Ledger.existing(home.database, alone=True)
    with closing(ledger):
        yield ledger


def _require_place(study: StudyLedger) -> None:
    try:
        study.record.require_place()
    except StorageError as error:
        raise UserError(
            f"{error}: study {study.name!r} is not deleted; where that is gone for good, leave it "
            "out with --keep-checkpoints"
        ) from None


def _records(study: StudyLedger, home: Home) -> "StudyRecords | None":
    """Return what MLflow holds of a study; None if the home has had no server yet.

    Raises UserError where that is in another home's server.
    """
    require_own_runs(study.record, home)
    address = given_address(study.record)
    if address is None and home.tracking_storage() is None and not home.mlflow_db.exists():
        return None
    if address is not None:
        require_answer(address)
    else:
        artifact_place.require_ours(home)  # nothing is found in a folder that is not mounted
    prepare_client()
    name = study.record.study.name
    delivered = Delivered.read(home.study_folder(name), study.record.uid)
    with _clear_trouble(name):
        from adarelu_sweep.tracking.database import database_of
        from adarelu_sweep.tracking.removal import StudyRecords

        return StudyRecords(
            address or database_of(home), study.record, delivered.experiment if delivered else None
        )


@contextmanager
def _clear_trouble(name: str) -> Iterator[None]:
    """Say in one line what MLflow or its server does not like."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"study {name!r} is not deleted, because of MLflow ({reason}): mend that and try "
            "again, or leave its runs with --keep-runs"
        ) from None


def _is_own(path: Path) -> bool:
    """Return whether a path is a file that goes with the study before its record does.

    The lease is held, and without the mark of the launch a deletion that was cut off might not know
    the study for this home's.
    """
    kept = path.name.startswith(("lease.", LAUNCHED))
    return not kept and (path.is_symlink() or path.is_file())


def _empty(folder: Path) -> None:
    """Remove a folder, but for the lease that is held in it."""
    with suppress(FileNotFoundError), _removal_explained():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif _is_own(path):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _removal_explained() -> Iterator[None]:
    """Say in one line what cannot be removed."""
    try:
        yield
    except FileNotFoundError:
        raise
    except StorageError as error:
        raise UserError(f"{error}: what lies there is not removed; delete again") from None
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be removed ({error.strerror}): mend that and delete again"
        ) from None


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
