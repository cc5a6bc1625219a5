"""The installed libraries, held against what this package asks for."""

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from adarelu_sweep._version import __version__
from adarelu_sweep.diagnosing.finding import Finding, State

_AREA = "version"
_NAMED = ("torch", "optuna", "mlflow", "sqlalchemy")  # told also where all is well
_EXTRA = ("ray",)  # of a further kind of sweep


def versions() -> Iterator[Finding]:
    """Say which versions there are, and what is missing or too old."""
    yield Finding(_AREA, "adarelu-sweep", State.OK, f"{__version__} ({_place()})")
    yield Finding(_AREA, "python", State.OK, f"{platform.python_version()} ({platform.system()})")
    wanted = _wanted()
    for name in dict.fromkeys((*_NAMED, *wanted)):
        finding = _library(name, wanted.get(name, Requirement(name)))
        if name in _NAMED or finding.state is State.FAILED:
            yield finding
    for name in _EXTRA:
        try:
            yield Finding(_AREA, name, State.OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(_AREA, name, State.ABSENT, "not installed, and not needed on one machine")


def _library(name: str, wanted: Requirement) -> Finding:
    remedy = f"pip install '{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(_AREA, name, State.FAILED, "not installed", remedy)
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding(_AREA, name, State.FAILED, f"{version}, which does not do", remedy)
    return Finding(_AREA, name, State.OK, version)


def _wanted() -> dict[str, Requirement]:
    """Return what this package needs, extras aside; nothing where it was not installed."""
    try:
        lines = metadata.requires("adarelu-sweep") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = [Requirement(line) for line in lines]
    return {one.name: one for one in wanted if one.marker is None or one.marker.evaluate()}


def _place() -> Path:
    return Path(__file__).parents[1]
