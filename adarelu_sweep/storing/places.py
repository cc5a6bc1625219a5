"""A place is a folder or file of this machine, or a key of an object store; a file there is whole.

Whoever writes, keeps and removes what a trial goes on from does it here, wherever that lies.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from adarelu_sweep import files
from adarelu_sweep.errors import UserError
from adarelu_sweep.storing.objects import CREDENTIALS, ObjectPath, StorageError

Place = Path | ObjectPath


def place_at(address: str) -> Place:
    """Return the place at an address, or at the whole path of a folder; ValueError for others."""
    if "://" in address:
        return ObjectPath.parse(address)
    try:
        folder = Path(address).expanduser()
    except RuntimeError:  # no such user
        folder = Path()
    if not folder.is_absolute():
        raise ValueError(f"{address!r}: give s3://BUCKET/PREFIX, or the whole path of a folder")
    return folder


def credentials_for(*addresses: str | None) -> tuple[str, ...]:
    """Return what the names of the environment variables begin with that give access to places."""
    stores = (address and isinstance(place_at(address), ObjectPath) for address in addresses)
    return CREDENTIALS if any(stores) else ()


def write_whole(place: Place, *content: bytes | memoryview, before: str | None = None) -> None:
    """Write a file so that after a kill or a power cut the old or the new content stands there.

    Args:
        place: The file.
        content: Its bytes, in one piece or in several.
        before: The name under which the old file is kept beside it, if it is to be kept.
    """
    match place:
        case ObjectPath():
            place.write(*content, before=place.with_name(before) if before else None)
        case Path():
            kept = place.with_name(before) if before else None
            files.write_atomically(place, *content, before=kept)


def discard(place: Place) -> None:
    """Remove a file and what a killed writer of it has left aside, as far as they are there."""
    match place:
        case ObjectPath():
            place.unlink(missing_ok=True)
        case Path():
            files.discard(place)


def discard_aside(place: Place) -> None:
    """Remove what a killed writer of a file has left aside; in a store, nothing is."""
    if isinstance(place, Path):
        files.discard_aside(place)


def move(place: Place, name: str) -> None:
    """Give a file another name in its folder."""
    match place:
        case ObjectPath():
            place.replace(place.with_name(name))
        case Path():
            place.replace(place.with_name(name))


def state_of(place: Place) -> str | None:
    """Return what is another where a file is another one; None if there is no file."""
    if isinstance(place, ObjectPath):
        return place.state()
    if not place.is_file():
        return None
    found = place.stat()
    return f"{found.st_mtime_ns} {found.st_size}"


@contextmanager
def on_disk(place: Place) -> Iterator[Path]:
    """Have a file on this machine: itself, or a copy for as long as it takes."""
    match place:
        case Path():
            yield place
        case ObjectPath():
            with TemporaryDirectory() as folder:
                copy = Path(folder) / place.name
                copy.write_bytes(place.read_bytes())
                yield copy


def remove_all(place: Place) -> None:
    """Remove all that is below a place."""
    match place:
        case ObjectPath():
            place.remove_all()
        case Path() if place.is_dir():
            shutil.rmtree(place)


def require_usable(place: Place) -> None:
    """Write, read and remove a file below a place; raise UserError where that cannot be done."""
    trial, content = place / f"write-test-{uuid.uuid4().hex[:12]}", b"may be removed"
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_whole(trial, content)
        if trial.read_bytes() != content:
            raise StorageError(f"{place}: what was written there is not what is read")
        discard(trial)
    except OSError as error:
        said = str(error) if isinstance(error, StorageError) else f"{place}: {error.strerror}"
        raise UserError(
            f"{said}: no checkpoints can be kept there; mend that, or give another place "
            "(execution.checkpoints)"
        ) from None
