"""Data sets that lie elsewhere, in an object store or on a network: copied here once, then local.

All processes of a machine share the copies, which stand in its cache like the files of any data
folder. A copy is whole or not there. It is made again where its original is another one, so that
nobody needs it: whoever deletes the cache while nothing trains gets it back.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.catalog import BUILT_IN, check, forms
from adarelu_sweep.datasets.catalog import names as names_in
from adarelu_sweep.datasets.sources import fetch
from adarelu_sweep.errors import UserError
from adarelu_sweep.files import NO_ROOM, discard, sync_folder, write_atomically
from adarelu_sweep.filesystems import network_filesystem
from adarelu_sweep.home import resolved
from adarelu_sweep.storing.objects import ObjectPath, StorageError
from adarelu_sweep.storing.places import Place, state_of, write_whole

Origin = Place
"""Where data sets come from: a folder, or what their keys in a store begin with."""

CACHE = "ADARELU_SWEEP_CACHE"
"""The environment variable with the folder in which a machine keeps copies."""

_BLOCK = 2**24  # bytes between two moments at which a stop is heard
_PAUSE = 1.0  # seconds between two of them while another process copies


def at_hand(name: str, origin: Origin, between: Callable[[], None] = lambda: None) -> Path:
    """Return the folder of this machine from which a worker reads a data set, copied if need be.

    ``between`` is called every now and then meanwhile, and may raise. A folder on a network is read
    itself where it cannot be copied, or nothing is won by that. Raises StorageError for what may
    pass, and UserError as ``brought``.
    """
    if isinstance(origin, ObjectPath):
        return _copied(name, origin, between)
    if network_filesystem(origin):
        with suppress(OSError, UserError):
            if not network_filesystem(_cache()):
                return _copied(name, origin, between)
    return origin


def brought(
    names: Iterable[str], origin: Origin, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Return the folder of this machine that has these data sets of a store, copied if need be.

    A folder is its own. ``say`` is told of every copy that is made. Raises UserError where the
    store is away, has no such data set or a damaged one, or the copies cannot be kept.
    """
    if isinstance(origin, Path):
        return origin
    with _away_explained():
        for name in names:
            _copied(name, origin, say=say)
    return _copies_of(origin)


def known(origin: Origin) -> list[str]:
    """Return the names of the built-in data sets, and of the npz files that are there."""
    with _away_explained():
        return names_in(origin)


def where(name: str, origin: Origin) -> str | None:
    """Return in words where a data set is; None if it is not there. Nothing is copied."""
    if isinstance(origin, Path):
        status = check(name, origin)
        return status.where if status.present else None
    with _away_explained():
        files = _found(name, origin)
    if files is None:
        return None
    if not files:
        return "built in"
    first = f"{origin / next(iter(files))}"
    return first if len(files) == 1 else first.rpartition("/")[0]


def provide(name: str, origin: Origin) -> str:
    """Download a data set to where data sets come from, unless it is there; return its place."""
    if isinstance(origin, Path):
        return fetch(name, origin).where
    if (there := where(name, origin)) is not None:
        return there
    if name not in BUILT_IN:
        raise _missing(name, origin)
    copies = _copies_of(origin)
    with _away_explained(), _trouble_explained(name, copies):
        copies.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=copies) as folder:
            with _told_of(origin, folder):
                file = fetch(name, Path(folder)).files[0]
            write_whole(origin / file.name, file.read_bytes())
    return f"{origin / file.name}"


@contextmanager
def _away_explained() -> Iterator[None]:
    """Raise UserError where a store is away, for a command, which does not wait for it."""
    try:
        yield
    except StorageError as error:
        raise UserError(
            f"{error}: no data sets can be had from there; mend that, or give another place with "
            "--data-dir"
        ) from None


def _cache() -> Path:
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "adarelu-sweep"
    return resolved(os.environ.get(CACHE) or users)


def _copies_of(origin: Origin) -> Path:
    """Return the folder of this machine for the copies of an origin's data sets."""
    digest = sha256(str(origin).encode()).hexdigest()[:12]
    return _cache() / "data" / f"{origin.name}-{digest}"


def _copied(
    name: str,
    origin: Origin,
    between: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Copy a data set, unless the copy that is here is one of what is there."""
    copies = _copies_of(origin)
    if not _is_current(name, copies, _required(name, origin)):
        with _trouble_explained(name, copies):
            copies.mkdir(parents=True, exist_ok=True)
            with _turn(copies / f".{name}.copy.lock", between):
                wanted = _required(name, origin)
                if not _is_current(name, copies, wanted):
                    if wanted:
                        say(f"Fetching {name} from {origin}")
                    _copy(name, origin, copies, wanted, between)
    return copies


def _found(name: str, origin: Origin) -> dict[str, str] | None:
    """Return the files that make a data set up, and what tells each from another; or None."""
    for form in forms(name):
        found: dict[str, str] = {}
        for names in form:
            states = ((each, state_of(origin / each)) for each in names)
            there = next(((each, state) for each, state in states if state is not None), None)
            if there is None:
                break
            found |= [there]
        else:
            return found
    return None


def _required(name: str, origin: Origin) -> dict[str, str]:
    found = _found(name, origin)
    if found is None:
        raise _missing(name, origin)
    return found


def _missing(name: str, origin: Origin) -> UserError:
    remedy = f"put {name}.npz there ({npz.FORMAT})"
    if name in BUILT_IN:
        remedy += f", or run `adarelu-sweep data fetch {name} --data-dir {origin}`"
    return UserError(f"there is no data set {name!r} in {origin}: {remedy}")


def _mark(name: str, copies: Path) -> Path:
    """Return what says of what a copy is one; it is not there while the copy is not whole."""
    return copies / f".{name}.origin"


def _is_current(name: str, copies: Path, wanted: dict[str, str]) -> bool:
    """Return whether a copy is one of these files, and looks usable."""
    try:
        return bool(
            json.loads(_mark(name, copies).read_bytes()) == wanted and check(name, copies).present
        )
    except (OSError, ValueError, UserError):
        return False


def _copy(
    name: str, origin: Origin, copies: Path, wanted: dict[str, str], between: Callable[[], None]
) -> None:
    """Copy the files aside, see that they are whole and usable, and give them their names."""
    aside = copies / f".{name}.aside"
    archive = BUILT_IN[name].archive if name in BUILT_IN else ""
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
    aside.mkdir()
    try:
        for file in wanted:
            _copy_file(origin / file, aside / file, between)
        if _found(name, origin) != wanted:
            raise StorageError(f"{origin}: {name} has changed while it was copied")
        with _told_of(origin, aside):
            fetch(name, aside)  # makes of an archive what is read, and looks at what is there
        files = [file for file in aside.rglob("[!.]*") if file.is_file()]
        made = [file.relative_to(aside) for file in files if file.name != archive]
        discard(_mark(name, copies))
        for one in made:
            (copies / one).parent.mkdir(parents=True, exist_ok=True)
            (aside / one).replace(copies / one)
            sync_folder((copies / one).parent)
        possible = {Path(each) for form in forms(name) for names in form for each in names}
        for other in possible - set(made):  # it may come before what is a copy now
            (copies / other).unlink(missing_ok=True)
        write_atomically(_mark(name, copies), json.dumps(wanted).encode())
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_file(original: Place, copy: Path, between: Callable[[], None]) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.open("wb") as target:
        for block in _blocks(original, copy.parent):
            target.write(block)
            between()
        target.flush()
        os.fsync(target.fileno())


def _blocks(original: Place, folder: Path) -> Iterator[bytes]:
    """Read a file; by itself, so that no trouble with the copy is taken for one of the store.

    Raises StorageError where a copy in the folder would leave less room than it takes.
    """
    with original.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        if shutil.disk_usage(folder).free < 2 * size:
            raise StorageError(f"{original}: there is no room for a copy in {folder}")
        source.seek(0)
        while block := source.read(_BLOCK):
            yield block
        if source.tell() != size:
            raise StorageError(f"{original}: {source.tell()} of its {size} bytes were read")


@contextmanager
def _told_of(origin: Origin, folder: Path | str) -> Iterator[None]:
    """Let errors name the original instead of what is made of it in a folder."""
    try:
        yield
    except UserError as error:
        said = str(error).replace(f"{folder}/", f"{origin}/")
        raise UserError(said.replace(f"into {folder} ", f"into {origin} ")) from None


@contextmanager
def _turn(file: Path, between: Callable[[], None]) -> Iterator[None]:
    """Wait for the turn to copy, which another process of this machine may have."""
    lock = FileLock(file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_PAUSE)
        except Timeout:
            between()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _trouble_explained(name: str, copies: Path) -> Iterator[None]:
    """Tell what may pass, want of room or a file that has just gone, from what has to be mended."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in NO_ROOM:
            raise StorageError(f"{name} cannot be copied to {copies} now ({reason})") from error
        raise UserError(
            f"data sets cannot be copied to {copies} ({reason}): choose another folder with {CACHE}"
        ) from None
