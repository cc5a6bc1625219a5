"""The files of data sets laid out once: what they say, when one is current, writing one.

Without torch, which whoever writes one before there is a worker does not wait for.
"""

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt
from filelock import FileLock

from adarelu_sweep.datasets.catalog import PREPARED, Form, check
from adarelu_sweep.datasets.layout import Layout
from adarelu_sweep.datasets.sources import read
from adarelu_sweep.files import write_atomically
from adarelu_sweep.filesystems import network_filesystem
from adarelu_sweep.privacy import as_the_user_has_it

_FORMAT = 2  # of the tensors, and of how they come from the files
_TYPES = {"uint8": "U8", "int64": "I64", "float32": "F32"}
PATIENCE = 10.0  # seconds for another process to write, in which no stop is heard
_LONGEST_HEADER = 2**20  # bytes


def place_of(name: str, data_dir: Path) -> Path:
    """Return where a data set's file is, or would be."""
    return data_dir / PREPARED / f"{name}.safetensors"


def origin_of(files: Sequence[Path]) -> str:
    """Say what shows that files are still the same: not their bytes, so that it is quick.

    The time of the last change of status is there for files that take another's place with its time
    of modification, as copies and unpacked archives have it.
    """
    states = [(file.name, file.stat()) for file in files]
    said = [(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]
    return json.dumps({"format": _FORMAT, "files": said})


def is_lacking(name: str, data_dir: Path) -> bool:
    """Return whether a data set could be prepared, soon and without torch, and is not.

    Raises OSError and UserError.
    """
    status = check(name, data_dir)
    place = place_of(name, data_dir)
    if status.form not in (Form.NPZ, Form.IDX) or network_filesystem(place.parent):
        return False
    return not _is_of(place, origin_of(status.files))


def prepare(name: str, data_dir: Path) -> None:
    """Write a data set's file, unless it is there. Raises OSError and UserError."""
    place = place_of(name, data_dir)
    with turn_to_write(place) as may_write:
        if may_write and is_lacking(name, data_dir):
            origin = origin_of(check(name, data_dir).files)
            write_if_unchanged(name, data_dir, Layout.of(read(name, data_dir)), origin)


@contextmanager
def turn_to_write(place: Path) -> Iterator[bool]:
    """Wait for the turn to write a file; False where it does not come or nothing can be written."""
    with ExitStack() as held:
        try:
            with as_the_user_has_it():  # the data folder may be shared
                place.parent.mkdir(exist_ok=True)
                lock = FileLock(place.with_name(f".{place.stem}.lock"), timeout=PATIENCE)
                held.enter_context(lock)
            may_write = True
        except (OSError, NotImplementedError):  # the latter where files cannot be locked
            may_write = False
        yield may_write


def write_if_unchanged(name: str, data_dir: Path, layout: Layout, origin: str) -> None:
    """Write what was read of a data set, if its files are those of before. Raises as ``check``.

    Nothing is written that would leave less room than it takes. It is a safetensors file, straight
    from the arrays: the library's own way copies them all.
    """
    if origin_of(check(name, data_dir).files) != origin:
        return
    place, arrays = place_of(name, data_dir), vars(layout)
    said = {"origin": origin, "checksum": checksum(arrays, origin)}
    header: dict[str, object] = {"__metadata__": said}
    end = 0
    for field, array in arrays.items():
        start, end = end, end + array.nbytes
        header[field] = {
            "dtype": _TYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = [memoryview(array).cast("B") for array in arrays.values()]
    if shutil.disk_usage(place.parent).free >= 2 * end:
        with as_the_user_has_it():
            write_atomically(place, len(text).to_bytes(8, "little"), text, *data)


def checksum(arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> str:
    """Return a sum over all that is in a file."""
    total = zlib.crc32(origin.encode())
    for name, array in arrays.items():
        form = f"{name} {array.dtype} {array.shape}"
        total = zlib.crc32(array.data, zlib.crc32(form.encode(), total))
    return f"{total:08x}"


def _is_of(place: Path, origin: str) -> bool:
    """Return whether a file says that it was made of these files; whether it is whole, not."""
    with suppress(OSError, ValueError, LookupError, TypeError), place.open("rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)
        return bool(json.loads(file.read(length))["__metadata__"]["origin"] == origin)
    return False
