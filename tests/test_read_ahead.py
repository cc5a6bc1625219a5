"""Files that are read from the disk before anybody asks for them."""

import ctypes
import mmap
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from adarelu_sweep.datasets.catalog import check, prepared_file
from adarelu_sweep.datasets.prepared import load
from adarelu_sweep.datasets.read_ahead import read_ahead
from tests.test_datasets import some
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="no file can be dropped from memory here"
)


def share_in_memory(path: Path) -> float:
    """Return the share of a file's pages that the kernel has in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(ctypes.addressof(start))
        failed = libc.mincore(address, ctypes.c_size_t(len(mapped)), pages)
        del start  # or the mapping could not be closed
        assert not failed, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages) / len(pages)


def evict(path: Path) -> None:
    """Have the kernel drop a file from memory; skip the test where it does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk stays
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if share_in_memory(path) > 0:
        pytest.skip("files stay in memory here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "own.npz", **some(train=3000))
    return tmp_path


def test_what_is_prepared_is_read(folder: Path) -> None:
    load("own", folder)
    evict(folder / "own.npz")
    evict(prepared_file("own", folder))
    read_ahead(["digits", "own"], folder)
    wait_until(lambda: share_in_memory(prepared_file("own", folder)) == 1, seconds=20)
    assert share_in_memory(folder / "own.npz") == 0  # nobody will read it


def test_where_nothing_is_prepared_the_files_are_read(folder: Path) -> None:
    (file,) = check("own", folder).files
    evict(file)
    read_ahead(["own"], folder)
    wait_until(lambda: share_in_memory(file) == 1, seconds=20)


def test_what_cannot_be_read_is_no_trouble(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    place = prepared_file("own", folder)
    place.mkdir(parents=True)
    read_ahead(["own"], folder)
    shutil.copy(folder / "own.npz", folder / "other.npz")
    evict(folder / "other.npz")
    read_ahead(["own", "other"], folder)  # the one before does not keep it from being read
    wait_until(lambda: share_in_memory(folder / "other.npz") == 1, seconds=20)
    assert not list(recwarn)  # of a thread that ended with an exception
