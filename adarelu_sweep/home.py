"""The home: the folder that holds all state, and what lies where in it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.secrets import without_password
from adarelu_sweep.storing.places import Place, place_at

STORAGE = "ADARELU_SWEEP_STORAGE"
"""The environment variable with the address of a database server. It may hold a password."""


@dataclass(frozen=True)
class Home:
    """Paths below one home folder. Nothing is created until ``create`` is called."""

    root: Path
    storage: str | None = field(default=None, repr=False)
    """The address of the server's database that has Optuna's book; None for the home's own file."""

    @classmethod
    def locate(cls, given: Path | None = None) -> "Home":
        """Return the home given, else ``ADARELU_SWEEP_HOME``, else ``./adarelu-home``.

        Its storage is ``ADARELU_SWEEP_STORAGE``, which ``--storage`` sets, else the one it was
        created with. Raises UserError if that is another.
        """
        home = cls(resolved(given or os.environ.get("ADARELU_SWEEP_HOME") or "adarelu-home"))
        asked, kept = os.environ.get(STORAGE), _kept(home.storage_file)
        if asked and kept is None and home.optuna_db.exists():
            raise UserError(
                f"the studies of {home.root} are in its optuna.db: launch from another --home, or "
                "leave --storage out"
            )
        if asked and kept and without_password(asked) != kept:
            raise UserError(
                f"the studies of {home.root} are in {kept}: give another --home, or leave "
                "--storage out"
            )
        return cls(home.root, asked or kept)

    def create(self) -> None:
        """Make the folder, readable by its owner only; raise UserError if that cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.own_artifacts.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.root}: cannot be the home ({error.strerror}); give another with --home"
            ) from None

    def keep_storage(self) -> None:
        """Have the home's studies in its storage from now on, which was found to be usable."""
        if self.storage and _kept(self.storage_file) is None:
            write_atomically(self.storage_file, without_password(self.storage).encode())

    def require_unmoved(self) -> None:
        """Raise UserError where the studies have got another storage since this was located."""
        kept = _kept(self.storage_file)
        if kept and kept != (without_password(self.storage) if self.storage else None):
            raise UserError(f"the studies of {self.root} were moved to {kept}: repeat the command")

    def tracking_storage(self) -> str | None:
        """Return the address of the server's database that has MLflow's records.

        It is None for the home's own file. It is looked up whenever it is needed: whoever waited
        for the records to be moved goes on where they are.
        """
        return _kept(self.tracking_storage_file)

    def keep_tracking_storage(self, address: str) -> None:
        """Have MLflow's records in a server's database from now on, which has them already."""
        write_atomically(self.tracking_storage_file, without_password(address).encode())

    @property
    def switch_lock(self) -> Path:
        """Locked while a study is recorded, and while the storage changes."""
        return self.root / "storage.lock"

    @property
    def optuna_db(self) -> Path:
        """Optuna's SQLite file."""
        return self.root / "optuna.db"

    @property
    def storage_file(self) -> Path:
        """What says where else Optuna's book is: an address without a password."""
        return self.root / "storage"

    @property
    def database(self) -> Path | str:
        """Where Optuna's book is: the home's file, or a server's address with all it needs."""
        return self.storage or self.optuna_db

    @property
    def shown_database(self) -> Path | str:
        """The same as it may be shown."""
        return without_password(self.storage) if self.storage else self.optuna_db

    @property
    def mlflow_db(self) -> Path:
        """The SQLite file of the home's own MLflow server."""
        return self.root / "mlflow.db"

    @property
    def tracking_storage_file(self) -> Path:
        """What says where else MLflow's records are: an address without a password."""
        return self.root / "tracking-storage"

    @property
    def artifacts(self) -> Place:
        """Where the home's own MLflow server keeps artifacts; raises UserError where none knows."""
        kept = _kept(self.artifacts_file)
        try:
            return place_at(kept) if kept else self.own_artifacts
        except ValueError as error:
            raise UserError(f"{self.artifacts_file}: {error}") from None

    @property
    def own_artifacts(self) -> Path:
        """The folder for them in the home."""
        return self.root / "artifacts"

    @property
    def artifacts_file(self) -> Path:
        """What says where else they are: a folder, or an address in an object store."""
        return self.root / "artifacts-place"

    @property
    def trials(self) -> Path:
        """The folders of all studies' trials."""
        return self.root / "trials"

    def study_folder(self, study: str) -> Path:
        """Return the folder of a study's trials."""
        return self.trials / study

    def trial_folder(self, study: str, number: int) -> Path:
        """Return the folder of one trial: its checkpoint, results, and state of delivery."""
        return self.study_folder(study) / f"{number:05d}"

    def search_trial_folder(self, study: str, arm: int, number: int) -> Path:
        """Return the folder of one trial of an arm's search."""
        return self.study_folder(study) / f"search-{arm:02d}" / f"{number:05d}"

    def log_folder(self, study: str) -> Path:
        """Return where the supervisor of a study and its workers write what they print."""
        return self.root / "logs" / study

    def supervisor_log(self, study: str) -> Path:
        """Return where a study's supervisor writes what it shows."""
        return self.log_folder(study) / "supervisor.log"

    def worker_log(self, study: str, slot: int) -> Path:
        """Return where the workers of a slot write what they print."""
        return self.log_folder(study) / f"worker-{slot}.log"

    def report_folder(self, study: str) -> Path:
        """Return where a study's report is written, unless somewhere else is asked for."""
        return self.root / "reports" / study

    @property
    def server_file(self) -> Path:
        """What says which MLflow server is up."""
        return self.root / "server.json"

    @property
    def server_log(self) -> Path:
        """What the home's MLflow server prints."""
        return self.root / "logs" / "mlflow-server.log"

    @property
    def auth_folder(self) -> Path:
        """The users, settings and secret key of the MLflow server's authentication."""
        return self.root / "server-auth"

    @property
    def bench_file(self) -> Path:
        """What ``bench`` has measured on the machines of this home."""
        return self.root / "bench.json"

    @property
    def bench_lock(self) -> Path:
        """Held while ``bench_file`` is changed."""
        return self.root / ".bench.lock"

    @property
    def claims_folder(self) -> Path:
        """What says which study trains on which GPU."""
        return self.root / "gpus"

    def data_origin(self, given: str | None, remembered: str | None = None) -> Place:
        """Return where data sets lie: given, remembered, ``ADARELU_SWEEP_DATA``, or the home's."""
        chosen = given or remembered or os.environ.get("ADARELU_SWEEP_DATA")
        if chosen is None or "://" not in chosen:
            return resolved(chosen or self.root / "data")
        try:
            return place_at(chosen)
        except ValueError as error:
            raise UserError(f"no place for data sets: {error}") from None


def _kept(file: Path) -> str | None:
    """Return the address that a file of the home has kept, None where there is no such file."""
    try:
        return file.read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): mend that") from None


def resolved(path: Path | str) -> Path:
    """Return a path made absolute, "~" included; raise UserError where that cannot be."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:  # no such user; a loop of links
        raise UserError(f"{path}: not a usable path ({error})") from None
