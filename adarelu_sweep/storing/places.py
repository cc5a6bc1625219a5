"""A place is a folder or file of this machine, or a key of an object store; a file there is whole.

Whoever writes, keeps and removes what a trial goes on from does it here, wherever that lies.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from adarelu_sweep import files
from adarelu_sweep.errors import UserError
from adarelu_sweep.secrets import without_password
from adarelu_sweep.storing.objects import CREDENTIALS, ObjectPath, RefusedError, StorageError

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
        shown = without_password(address)
        raise ValueError(f"{shown!r}: give s3://BUCKET/PREFIX, or the whole path of a folder")
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


def make_below(place: Place, folder: Place) -> None:
    """Make a folder below a place, but not the place itself; in a store there are no folders."""
    if isinstance(place, Path) and isinstance(folder, Path):
        for part in folder.relative_to(place).parts:
            place = place / part
            place.mkdir(exist_ok=True)


def remove_all(place: Place, but: str | None = None) -> None:
    """Remove all that is below a place, but for a file of this name in it if given."""
    match place:
        case ObjectPath():
            place.remove_all(but)
        case Path() if but is None:
            _remove_folder(place)
        case Path() if place.is_dir():
            for path in place.iterdir():
                if path.is_dir() and not path.is_symlink():
                    _remove_folder(path)
                elif path.name != but:
                    path.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, though somebody else may remove what is in it."""
    while folder.is_dir():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def require_usable(place: Place, new: bool = False) -> None:
    """Write, read and remove a file below a place; raise UserError where that cannot be done.

    Only if it is to be a ``new`` one is a folder made that is not there.
    """
    trial, content = place / f"write-test-{uuid.uuid4().hex[:12]}", b"may be removed"
    try:
        if new:
            place.mkdir(parents=True, exist_ok=True)
        write_whole(trial, content)
        if trial.read_bytes() != content:
            raise StorageError(f"{place}: what was written there is not what is read")
        discard(trial)
        _require_gone(trial)
    except OSError as error:
        said = str(error) if isinstance(error, StorageError) else f"{place}: {error.strerror}"
        raise UserError(
            f"{said}: no checkpoints can be kept there; mend that, or give another place "
            "(execution.checkpoints)"
        ) from None


def _require_gone(file: Place) -> None:
    """Raise StorageError where it cannot be seen that a file is not there.

    Of keys that are not there S3 says so only to those who may list the bucket.
    """
    try:
        if file.exists():
            raise StorageError(f"{file}: what was removed is still there")
    except RefusedError:
        raise StorageError(
            f"{file}: the account may not list the bucket (s3:ListBucket), so that it is not told "
            "of a key that is not there"
        ) from None
