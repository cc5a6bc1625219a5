"""What is remembered of a study, so that ``resume`` needs the database alone."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from adarelu_sweep.storing.marks import require_mark
from adarelu_sweep.storing.places import Place, place_at
from adarelu_sweep.studies.schema import Study

_UID_DIGITS = 12  # enough that no two studies of one name share a place


class StudyRecord(BaseModel):
    """The plan of a study, and how it was launched."""

    model_config = ConfigDict(frozen=True)

    uid: str
    """Tells this study from every other of the same name, in a shared tracking server too."""
    study: Study
    source: str
    """The study file as it was given, before overrides."""
    created: str
    """When it was launched: ISO 8601, UTC."""
    version: str
    """The version of adarelu-sweep that launched it."""
    tracking_uri: str | None = None
    """The tracking server given, without credentials; None for the home's own."""
    data_folder: str | None = None
    """Where data sets come from, if that was given: a folder, or an address in a store."""
    gpus: str | None = None
    """The GPUs given; None for the default."""
    workers: int | None = None
    """The number of slots given; None for the default."""
    threads: int = 1
    """CPU threads of a slot at launch: numbers depend on them to the last bit."""
    home: str = "another home"
    """Where it was launched, as HOST:FOLDER: there lie its checkpoints, unless it says where.

    There are its runs, too, if no tracking server was given.
    """
    pack: int = 0
    """Trials that a worker was to train at once, at launch; 0: as many as are best."""
    launcher: Literal["local", "ray"] = "local"
    """Where the workers ran at launch."""
    ray_address: str | None = None
    """The address of the cluster given; None for the default."""
    gpus_per_worker: float | None = None
    """How much of a GPU a worker of the cluster was given; None for the default."""

    @property
    def place(self) -> Place | None:
        """Where all results of the study lie, if that is not the home."""
        address = self.study.execution.checkpoints
        if address is None:
            return None
        return place_at(address) / f"{self.study.name}-{self.uid[:_UID_DIGITS]}"

    def require_place(self) -> None:
        """Raise StorageError unless the place of its results is reached; the home always is."""
        if self.place is not None:
            require_mark(self.place, self.uid)
