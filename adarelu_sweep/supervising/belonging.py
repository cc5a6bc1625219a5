"""Which home a study belongs to. A server's database is reached from many; checkpoints lie in one.

Trained again without them, epochs would stand in MLflow twice; deleted from elsewhere, a study
would leave them and its runs behind.
"""

import socket

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.supervising.ledger import StudyLedger


def whereabouts(home: Home) -> str:
    """Return a home as other machines are told of it: HOST:FOLDER."""
    return f"{socket.gethostname()}:{home.root}"


def require_own(ledger: StudyLedger, home: Home) -> None:
    """Raise UserError for a study of another home whose checkpoints are not reached from here."""
    if ledger.record.study.execution.checkpoints is not None:
        return
    name = ledger.record.study.name
    folder = home.study_folder(name)
    if home.storage is None or ledger.record.home == whereabouts(home):
        return
    if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        return
    raise UserError(
        f"study {name!r} belongs to the home {ledger.record.home}, where its checkpoints are: give "
        "that folder, or one shared with it, as --home (a study with execution.checkpoints belongs "
        "to none)"
    )
