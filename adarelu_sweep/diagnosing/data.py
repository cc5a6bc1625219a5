"""The data sets: which are there, laid out already, or to be fetched."""

from collections.abc import Iterator
from pathlib import Path

from adarelu_sweep.datasets.catalog import PREPARED, check, names
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.errors import UserError


def data_sets(folder: Path) -> Iterator[Finding]:
    """Say of every data set of the catalog whether it is there. Headers are read, no images."""
    for name in names(folder):
        try:
            status = check(name, folder)
        except UserError as error:
            yield Finding("data", name, State.FAILED, str(error))
            continue
        if not status.present:
            remedy = f"a launch fetches it, and so does 'adarelu-sweep data fetch {name}'"
            yield Finding("data", name, State.ABSENT, "not there", remedy)
            continue
        prepared = (folder / PREPARED / f"{name}.safetensors").exists()
        found = f"{status.where}{', prepared' if prepared else ''}"
        yield Finding("data", name, State.OK, found)
