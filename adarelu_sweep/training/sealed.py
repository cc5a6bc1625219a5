"""Safetensors files that show whether they are whole: checksums cover every byte. Needs no torch.

The header's metadata begins with the two: "header" is the SHA-256 of the header with its length,
taken with zeros in this place, and "data" that of the bytes after it. Files of earlier versions
have no checksums, and one entry of metadata alone: of them only what shows anyway is noticed.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from adarelu_sweep.storing.places import Place

_BEGINNING = b'{"__metadata__":{"header":"'
_DIGITS = 64  # of a checksum
_LENGTH = 8  # bytes, little endian, in front of the header
_LONGEST_HEADER = 100_000_000  # bytes; safetensors takes no longer one


class DamagedError(ValueError):
    """A file is not what was written; says in a few words what is wrong with it."""


@dataclass(frozen=True)
class _Header:
    entry: str
    """The text that was asked for."""
    raw: bytes
    data: str | None
    """The checksum of what follows; None in a file of an earlier version."""


def seal(content: bytes, entries: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """Return the two parts of a sealed file: header and data.

    Args:
        content: A safetensors file; its metadata is replaced.
        entries: The metadata, besides the checksums.
    """
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    tensors = json.loads(content[_LENGTH:end])
    data = memoryview(content)[end:]
    sums = {"header": "0" * _DIGITS, "data": sha256(data).hexdigest()}
    header = {"__metadata__": sums | dict(entries)} | {
        name: place for name, place in tensors.items() if name != "__metadata__"
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    blank = _with_length(text + b" " * (-len(text) % 8))
    return _filled(blank, sha256(blank).hexdigest().encode()), data


def read_entry(path: Place, name: str) -> str:
    """Read a text from the metadata, and verify header and length: cheap, whatever the file's size.

    Raises FileNotFoundError if there is no file, DamagedError if it is not whole.
    """
    with _opened(path) as file:
        return _read_header(file, name).entry


def read_whole(path: Place, name: str) -> tuple[str, bytes]:
    """Read a text from the metadata and the whole file, and verify all of it.

    Raises FileNotFoundError if there is no file, DamagedError if it is not whole.
    """
    with _opened(path) as file:
        header = _read_header(file, name)
        data = file.read()
    if header.data is not None and sha256(data).hexdigest() != header.data:
        raise DamagedError("its data was altered")
    return header.entry, header.raw + data


@contextmanager
def _opened(path: Place) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedError("the disk cannot read it") from None


def _read_header(file: BinaryIO, name: str) -> _Header:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or length > size - _LENGTH:
        raise DamagedError("it is cut short")
    if length > _LONGEST_HEADER:
        raise DamagedError("its header was altered")
    raw = _with_length(file.read(length))
    start = _LENGTH + len(_BEGINNING)
    sealed = raw.startswith(_BEGINNING, _LENGTH)
    if sealed:
        blank = _filled(raw, b"0" * _DIGITS)
        if sha256(blank).hexdigest().encode() != raw[start : start + _DIGITS]:
            raise DamagedError("its header was altered")
    try:
        header = json.loads(raw[_LENGTH:])
        entries = {str(key): str(text) for key, text in header.pop("__metadata__").items()}
        ends = [int(place["data_offsets"][1]) for place in header.values()]
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ):
        raise DamagedError("its header was altered") from None
    if entries.keys() != ({"header", "data", name} if sealed else {name}):
        raise DamagedError("it was altered, or kept by an earlier version that kept less")
    if size != len(raw) + max(ends, default=0):
        raise DamagedError("it is cut short or too long")
    return _Header(entries[name], raw, entries["data"] if sealed else None)


def _with_length(header: bytes) -> bytes:
    return len(header).to_bytes(_LENGTH, "little") + header


def _filled(raw: bytes, digits: bytes) -> bytes:
    """Return a sealed header with this in the place of its checksum."""
    start = _LENGTH + len(_BEGINNING)
    return raw[:start] + digits + raw[start + _DIGITS :]
