"""Data sets laid out once and mapped from then on: workers of a host share one copy in memory.

The first one who reads a data set from its files leaves it in ``prepared/NAME.safetensors`` in the
data folder, as the tensors that are trained on. Nobody needs these files: where none can be written
or one is damaged, the data set is read as ever, and whoever deletes them gets them back. What must
not be done is to change one in place: those who have it mapped would see it.
"""

import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open

from adarelu_sweep.datasets.catalog import check, damage_explained, prepared_file
from adarelu_sweep.datasets.sources import fetch, read
from adarelu_sweep.datasets.tensors import Tensors
from adarelu_sweep.errors import UserError
from adarelu_sweep.files import read_through, write_atomically
from adarelu_sweep.filesystems import network_filesystem
from adarelu_sweep.privacy import as_the_user_has_it

_FORMAT = 1  # of the tensors, and of how they come from the files
_TYPES = {torch.uint8: "U8", torch.int64: "I64", torch.float32: "F32"}
_PATIENCE = 10.0  # seconds for another process to write, in which no stop is heard


def load(name: str, data_dir: Path) -> Tensors:
    """Load a whole data set, mapped where that can be, after ``fetch`` where it is not present.

    Raises UserError as ``read`` does, where the files have to be read.
    """
    files = fetch(name, data_dir).files
    place = prepared_file(name, data_dir)
    # On a network, a file that another host replaces is gone for those who have it mapped.
    if not files or network_filesystem(place.parent):
        return Tensors.of(read(name, data_dir))
    with damage_explained(name, data_dir):
        origin = _origin(files)
    if (mapped := _mapped(place, origin)) is not None:
        return mapped
    with _turn_to_write(place) as may_write:
        if (mapped := _mapped(place, origin)) is not None:
            return mapped
        tensors = Tensors.of(read(name, data_dir))
        with suppress(OSError, UserError):
            if may_write and _origin(check(name, data_dir).files) == origin:
                _write(place, tensors, origin)
        return _mapped(place, origin) or tensors


def _origin(files: Sequence[Path]) -> str:
    """Say what shows that files are still the same: not their bytes, so that it is quick.

    The time of the last change of status is there for files that take another's place with its time
    of modification, as copies and unpacked archives have it.
    """
    states = [(file.name, file.stat()) for file in files]
    said = [(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]
    return json.dumps({"format": _FORMAT, "files": said})


def _mapped(place: Path, origin: str) -> Tensors | None:
    """Map a file that is whole and was made of these files; None where there is no such one.

    The mapping is private: what somebody wrote to it would stay in this process.
    """
    try:
        read_through(place)  # what the disk cannot read would end a process that has it mapped
        with safe_open(place, "pt") as file:
            said = file.metadata() or {}
            if said.get("origin") != origin:
                return None
            tensors = Tensors(**{one.name: file.get_tensor(one.name) for one in fields(Tensors)})
    # Of damaged bytes safetensors and torch raise many kinds, documented nowhere.
    except Exception:
        return None
    return tensors if said.get("checksum") == _checksum(tensors, origin) else None


@contextmanager
def _turn_to_write(place: Path) -> Iterator[bool]:
    """Wait for the turn to write a file; False where it does not come or nothing can be written."""
    with ExitStack() as held:
        try:
            with as_the_user_has_it():  # the data folder may be shared
                place.parent.mkdir(exist_ok=True)
                lock = FileLock(place.with_name(f".{place.stem}.lock"), timeout=_PATIENCE)
                held.enter_context(lock)
            may_write = True
        except (OSError, NotImplementedError):  # the latter where files cannot be locked
            may_write = False
        yield may_write


def _write(place: Path, tensors: Tensors, origin: str) -> None:
    """Write a safetensors file, straight from the tensors: the library's own way copies them all.

    Raises OSError. Nothing is written that would leave less room than it takes.
    """
    said = {"origin": origin, "checksum": _checksum(tensors, origin)}
    header: dict[str, object] = {"__metadata__": said}
    end = 0
    for name, tensor in vars(tensors).items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = [memoryview(tensor.numpy()).cast("B") for tensor in vars(tensors).values()]
    if shutil.disk_usage(place.parent).free >= 2 * end:
        with as_the_user_has_it():
            write_atomically(place, len(text).to_bytes(8, "little"), text, *data)


def _checksum(tensors: Tensors, origin: str) -> str:
    """Return a sum over all that is in a file."""
    total = zlib.crc32(origin.encode())
    for name, tensor in vars(tensors).items():
        form = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        total = zlib.crc32(tensor.numpy(), zlib.crc32(form.encode(), total))
    return f"{total:08x}"
