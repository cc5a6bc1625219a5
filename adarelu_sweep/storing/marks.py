"""The mark of a study's place: whose it is, and which of its supervisors has it now.

A folder that is not mounted looks like an empty one, and so does a bucket of the same name in
another store: what is missing in a place is missing only where the mark is there. And a supervisor
that was cut off may have left workers that train on while another one has the study: each writes
a token of its own into the mark, and whoever finds another one there writes nothing more.
"""

import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import Place, place_at, write_whole

MARK = "adarelu-sweep.study"
"""Its name in the place."""


class Mark(BaseModel):
    """What it says."""

    model_config = ConfigDict(frozen=True)

    study: str
    """The uid of the study whose place it is."""
    token: str
    """Of the supervisor that took the study last."""


class Fence(BaseModel):
    """A supervisor's hold of a place, which ends when another one takes the study."""

    model_config = ConfigDict(frozen=True)

    place: str
    mark: Mark

    def holds(self) -> bool:
        """Return whether it still holds; raise StorageError where that cannot be told."""
        return require_mark(place_at(self.place), self.mark.study) == self.mark


def put_mark(place: Place, study: str) -> Fence:
    """Write a mark with a new token: from then on no other fence of the place holds."""
    mark = Mark(study=study, token=uuid.uuid4().hex)
    write_whole(place / MARK, mark.model_dump_json().encode())
    return Fence(place=str(place), mark=mark)


def require_mark(place: Place, study: str) -> Mark:
    """Return a place's mark; raise StorageError unless it is there, and this study's."""
    try:
        mark = Mark.model_validate_json((place / MARK).read_bytes())
    except FileNotFoundError:
        remedy = (
            "mount the folder that it is in"
            if isinstance(place, Path)
            else "correct the address of the store (AWS_ENDPOINT_URL)"
        )
        raise StorageError(f"{place}: {MARK} is missing there: {remedy}") from None
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{place}: {MARK} cannot be read ({error.strerror})") from None
    except ValueError:
        raise StorageError(f"{place}: {MARK} is damaged") from None
    if mark.study != study:
        raise StorageError(f"{place}: {MARK} there is that of another study")
    return mark
