"""Where the workers leave a study's results: in the home, or where its study file says.

The home has a folder of every trial in any case, with what was delivered of it.
"""

from pathlib import Path

from adarelu_sweep.home import Home
from adarelu_sweep.storing.places import Place, place_at
from adarelu_sweep.studies.record import StudyRecord

_UID_DIGITS = 12  # enough that no two studies of one name share a place


def given_place(record: StudyRecord) -> Place | None:
    """Return where all results of a study lie, if that is not the home."""
    address = record.study.execution.checkpoints
    if address is None:
        return None
    return place_at(address) / f"{record.study.name}-{record.uid[:_UID_DIGITS]}"


def results_of(trial_folder: Path, record: StudyRecord, home: Home) -> Place:
    """Return where a trial's checkpoint, history and model lie, given its folder in the home."""
    place = given_place(record)
    if place is None:
        return trial_folder
    for part in trial_folder.relative_to(home.study_folder(record.study.name)).parts:
        place = place / part
    return place
