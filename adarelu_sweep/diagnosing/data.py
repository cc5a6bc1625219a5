"""The data sets: which are there, laid out already, or to be fetched."""

from collections.abc import Iterator
from pathlib import Path

from adarelu_sweep.datasets.catalog import prepared_file
from adarelu_sweep.datasets.origin import Origin, known, where
from adarelu_sweep.diagnosing.finding import Finding, State
from adarelu_sweep.errors import UserError


def data_sets(origin: Origin) -> Iterator[Finding]:
    """Say of every data set of the catalog whether it is there. Headers are read, no images."""
    for name in known(origin):
        try:
            place = where(name, origin)
        except UserError as error:
            yield Finding("data", name, State.FAILED, str(error))
            continue
        if place is None:
            remedy = (
                f"a launch fetches it, and so does 'adarelu-sweep data fetch {name}'"
                if isinstance(origin, Path)
                else f"'adarelu-sweep data fetch {name} --data-dir {origin}' puts it there"
            )
            yield Finding("data", name, State.ABSENT, "not there", remedy)
            continue
        prepared = isinstance(origin, Path) and prepared_file(name, origin).exists()
        yield Finding("data", name, State.OK, f"{place}{', prepared' if prepared else ''}")
