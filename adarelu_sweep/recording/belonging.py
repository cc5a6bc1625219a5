"""Which home a study belongs to.

A server's database is reached from many homes; checkpoints, unless the study says where, and the
runs of a home's own MLflow server lie in one.
Trained again without its checkpoints, epochs would stand in MLflow twice; deleted from elsewhere, a
study would leave them and its runs behind.
"""

import socket

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import StudyLedger
from adarelu_sweep.studies.record import StudyRecord

LAUNCHED = "launched-here"
"""The file in a study's folder that has the uid of the study, in the home that launched it."""


def whereabouts(home: Home) -> str:
    """Return a home as other machines are told of it: HOST:FOLDER."""
    return f"{socket.gethostname()}:{home.root}"


def keep_launch(record: StudyRecord, home: Home) -> None:
    """Note that a study is this home's, whose folder may be known elsewhere by another name."""
    write_atomically(home.study_folder(record.study.name) / LAUNCHED, record.uid.encode())


def is_launched_here(record: StudyRecord, home: Home) -> bool:
    """Return whether a study was launched in this home, wherever its folder is mounted now."""
    if home.storage is None or record.home == whereabouts(home):
        return True
    try:
        return (home.study_folder(record.study.name) / LAUNCHED).read_bytes() == record.uid.encode()
    except OSError:
        return False


def has_runs_elsewhere(record: StudyRecord, home: Home) -> bool:
    """Return whether a study has its runs, or its first ones, in another home's MLflow server."""
    return record.tracking_uri is None and not is_launched_here(record, home)


def require_own(ledger: StudyLedger, home: Home) -> None:
    """Raise UserError for a study of another home whose checkpoints are not reached from here."""
    record = ledger.record
    if record.study.execution.checkpoints is not None or is_launched_here(record, home):
        return
    name = record.study.name
    folder = home.study_folder(name)
    if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        return
    raise UserError(
        f"study {name!r} belongs to the home {record.home}, where its checkpoints are: give that "
        "folder, or one shared with it, as --home (a study with execution.checkpoints belongs to "
        "none)"
    )


def require_own_runs(record: StudyRecord, home: Home) -> None:
    """Raise UserError for a study whose runs another home's MLflow server has."""
    if has_runs_elsewhere(record, home):
        raise UserError(
            f"the MLflow runs of study {record.study.name!r} are those of the home {record.home}: "
            "delete it there, or leave them with --keep-runs"
        )
