"""Data sets laid out once and mapped from then on: workers of a host share one copy in memory.

The first one who reads a data set from its files leaves it in ``prepared/NAME.safetensors`` in the
data folder, as the tensors that are trained on. Nobody needs these files: where none can be written
or one is damaged, the data set is read as ever, and whoever deletes them gets them back. What must
not be done is to change one in place: those who have it mapped would see it.
"""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from safetensors import safe_open

from adarelu_sweep.datasets.catalog import damage_explained
from adarelu_sweep.datasets.layout import Layout
from adarelu_sweep.datasets.prepared_file import (
    checksum,
    origin_of,
    place_of,
    turn_to_write,
    write_if_unchanged,
)
from adarelu_sweep.datasets.sources import fetch, read
from adarelu_sweep.datasets.tensors import Tensors
from adarelu_sweep.errors import UserError
from adarelu_sweep.filesystems import network_filesystem

_BLOCK = 2**20  # bytes


def load(name: str, data_dir: Path) -> Tensors:
    """Load a whole data set, mapped where that can be, after ``fetch`` where it is not present.

    Raises UserError as ``read`` does, where the files have to be read.
    """
    files = fetch(name, data_dir).files
    place = place_of(name, data_dir)
    # On a network, a file that another host replaces is gone for those who have it mapped.
    if not files or network_filesystem(place.parent):
        return Tensors.of(read(name, data_dir))
    with damage_explained(name, data_dir):
        origin = origin_of(files)
    if (mapped := _mapped(place, origin)) is not None:
        return mapped
    with turn_to_write(place) as may_write:
        if (mapped := _mapped(place, origin)) is not None:
            return mapped
        layout = Layout.of(read(name, data_dir))
        if may_write:
            with suppress(OSError, UserError):
                write_if_unchanged(name, data_dir, layout, origin)
        return _mapped(place, origin) or Tensors.laid_out(layout)


def _mapped(place: Path, origin: str) -> Tensors | None:
    """Map a file that is whole and was made of these files; None where there is no such one.

    The mapping is private: what somebody wrote to it would stay in this process.
    """
    try:
        _read_through(place)
        with safe_open(place, "pt") as file:
            said = file.metadata() or {}
            if said.get("origin") != origin:
                return None
            tensors = Tensors(**{one.name: file.get_tensor(one.name) for one in fields(Tensors)})
    # Of damaged bytes safetensors and torch raise many kinds, documented nowhere.
    except Exception:
        return None
    arrays = {name: tensor.numpy() for name, tensor in vars(tensors).items()}
    return tensors if said.get("checksum") == checksum(arrays, origin) else None


def _read_through(place: Path) -> None:
    """Raise OSError if the disk cannot read a file: in a mapping that would end the process."""
    block = bytearray(_BLOCK)
    with place.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
