"""Folders: the home, what trials and artifacts are kept in, and what of them can be written."""

import os
from collections.abc import Iterator
from pathlib import Path

from adarelu_sweep.datasets.origin import Origin
from adarelu_sweep.diagnosing.database import recorded_plans
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.errors import UserError
from adarelu_sweep.filesystems import filesystem, home_warnings
from adarelu_sweep.home import Home
from adarelu_sweep.operating.disk import free_bytes
from adarelu_sweep.storing.objects import ObjectPath, StorageError
from adarelu_sweep.tracking.artifact_place import problem_with
from adarelu_sweep.wording import count, size

_LEAST = 64 * 2**20  # bytes free, without which not even a database is made
_ELSEWHERE = "give another home with --home, or the right to write there"


def home_folder(home: Home) -> Finding:
    """Say whether a home is there, or can be made, and can be written."""
    return _folder("home", "folder", home.root, "the first launch makes it")


def free_disk(home: Home) -> Finding:
    """Say how much room a home has."""
    free = free_bytes(home.root)
    if free is None:
        return Finding("home", "disk", State.FAILED, "its free room cannot be told", _ELSEWHERE)
    if free < _LEAST:
        remedy = "make room ('adarelu-sweep delete' does), or give another home with --home"
        return Finding("home", "disk", State.FAILED, f"only {size(free)} free", remedy)
    return Finding("home", "disk", State.OK, f"{size(free)} free")


def home_filesystem(home: Home) -> Finding:
    """Say what file system a home is on, and whether SQLite's write-ahead log works there."""
    kind = filesystem(home.root) or "unknown"
    warnings = home_warnings(home.root)
    found = warnings[0] if warnings else f"{kind}, a local one: SQLite keeps a write-ahead log"
    return Finding("home", "file system", State.OK, found)


def storage(home: Home, with_artifacts: bool) -> Iterator[Finding]:
    """Say where trials and, for the home's own tracking server, artifacts are kept."""
    kept = {"trials": home.trials}
    if with_artifacts and home.artifacts == home.own_artifacts:
        kept["artifacts"] = home.own_artifacts
    for name, folder in kept.items():
        yield _folder("storage", name, folder, "made when something is kept there")


def artifacts_elsewhere(home: Home) -> Finding:
    """Say whether the place outside the home in which its server keeps artifacts can be reached."""
    if problem := problem_with(home):
        return Finding("storage", "artifacts", State.FAILED, problem)
    return Finding("storage", "artifacts", State.OK, f"{home.artifacts}, can be read")


def checkpoints_elsewhere(home: Home) -> Iterator[Finding]:
    """Say whether the places outside the home can be reached in which studies have checkpoints."""
    for record in recorded_plans(home.database):
        if record.place is None:
            continue
        try:
            record.require_place()
        except (StorageError, UserError) as error:
            remedy = "see that it is there, and which account and store the environment names"
            yield Finding("storage", "checkpoints", State.FAILED, str(error), remedy)
            continue
        if isinstance(record.place, Path) and not _writable(record.place):
            said = f"{record.place} cannot be written"
            remedy = "give this account the right to write there"
            yield Finding("storage", "checkpoints", State.FAILED, said, remedy)
        else:
            yield Finding("storage", "checkpoints", State.OK, f"{record.place}, can be read")


def data_origin(folder: Origin) -> Finding:
    """Say where data sets come from; it need not be written unless one is fetched."""
    if not isinstance(folder, Path):
        return _store("data", "store", folder)
    if not folder.exists():
        return Finding("data", "folder", State.ABSENT, f"{folder} is made by the first fetch")
    if not folder.is_dir():
        remedy = "choose another one with --data-dir"
        return Finding("data", "folder", State.FAILED, f"{folder} is not a folder", remedy)
    writable = "" if _writable(folder) else ", read-only: nothing can be fetched into it"
    return Finding("data", "folder", State.OK, f"{folder}{writable}")


def _store(area: str, name: str, place: ObjectPath) -> Finding:
    """Say whether a place in a store can be read."""
    try:
        (place / "any").exists()
    except (StorageError, UserError) as error:
        remedy = "start or mend the store, and see which account the environment names"
        return Finding(area, name, State.FAILED, str(error), remedy)
    return Finding(area, name, State.OK, f"{place}, can be read")


def _folder(area: str, name: str, folder: Path, made: str) -> Finding:
    """Say whether a folder of ours can be used, or made where it is not there."""
    first = next(place for place in (folder, *folder.parents) if place.exists())
    if not first.is_dir():
        return Finding(area, name, State.FAILED, f"{first} is not a folder", _ELSEWHERE)
    if not _writable(first):
        return Finding(area, name, State.FAILED, f"{first} cannot be written", _ELSEWHERE)
    if first != folder:
        return Finding(area, name, State.ABSENT, f"{folder} is not there yet: {made}")
    entries = count(sum(1 for _ in folder.iterdir()), "entry", "entries")
    return Finding(area, name, State.OK, f"{folder}, can be written, {entries}")


def _writable(folder: Path) -> bool:
    """Return whether entries can be made in a folder; file systems that are read-only say no."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)
