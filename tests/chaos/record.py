"""Writing down what a run has shown, and under which conditions."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("torch", "optuna", "mlflow", "sqlalchemy")


def conditions(command: str) -> str:
    """Say when and where this runs, with which versions, and how to repeat it."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return (
        f"Run on {day} at commit {commit()}, on a machine with {_machine()}; "
        f"{platform.system()}, Python {platform.python_version()}, {versions}. "
        f"Repeat it with `{command}`."
    )


def commit() -> str:
    """Return the short name of the commit that is checked out; "unknown" outside a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a section in a file of Markdown."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path} has no section {name!r}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({_processor()}) and {memory:.0f} GiB of memory"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
