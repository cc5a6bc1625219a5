"""Where the workers leave a study's results: in the home, or where its study file says.

The home has a folder of every trial in any case, with what was delivered of it.
"""

from pathlib import Path

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.storing.marks import Fence, put_mark
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import Place, require_usable
from adarelu_sweep.studies.record import StudyRecord


def results_of(trial_folder: Path, record: StudyRecord, home: Home) -> Place:
    """Return where a trial's checkpoint, history and model lie, given its folder in the home."""
    place = record.place
    if place is None:
        return trial_folder
    for part in trial_folder.relative_to(home.study_folder(record.study.name)).parts:
        place = place / part
    return place


def take_place(record: StudyRecord, new: bool = False) -> Fence | None:
    """Have the place of a study's results for this supervisor alone, who owns the study.

    Of a ``new`` study it is made, in what was found to be usable. Raises UserError where it is not
    reached, or cannot be written.
    """
    place = record.place
    if place is None:
        return None
    try:
        if new:
            place.mkdir(exist_ok=True)
        else:
            record.require_place()
            require_usable(place)
        return put_mark(place, record.uid)
    except StorageError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{place}: no checkpoints can be kept there ({error.strerror})") from None
