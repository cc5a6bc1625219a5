"""Data sets that are mapped: equal to what their files hold, shared, and never in the way."""

import fcntl
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adarelu_sweep.datasets import npz, prepared
from adarelu_sweep.datasets.idx import NAMES
from adarelu_sweep.datasets.prepared import load
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import names, read
from adarelu_sweep.datasets.tensors import Tensors
from adarelu_sweep.errors import UserError
from tests.test_datasets import idx_bytes, some, write_idx


def place(folder: Path, name: str = "own") -> Path:
    return folder / "prepared" / f"{name}.safetensors"


def mappings(path: Path) -> list[range]:
    """Return the addresses at which this process has a file mapped."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    regions = [line[0].split("-") for line in lines if line[5:] == [str(path)]]
    return [range(int(start, 16), int(end, 16)) for start, end in regions]


def is_mapped(tensor: torch.Tensor, path: Path) -> bool:
    return any(tensor.data_ptr() in addresses for addresses in mappings(path))


def equal(these: Tensors, those: Tensors) -> bool:
    pairs = [(getattr(these, one.name), getattr(those, one.name)) for one in fields(Tensors)]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def as_in_files(tensors: Tensors, folder: Path, name: str = "own") -> bool:
    return equal(tensors, Tensors.of(read(name, folder)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "own.npz", **some())
    return tmp_path


@settings(max_examples=60, deadline=None)
@given(
    train=st.integers(2, 9),
    test=st.integers(1, 5),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colours=st.sampled_from([(), (1,), (3,)]),
    limits=st.tuples(*[st.none() | st.integers(1, 9)] * 2),
    constant=st.booleans(),
)
@example(2, 1, (1, 1), (3,), (None, None), False)
def test_what_is_mapped_is_what_is_read(
    train: int,
    test: int,
    sides: tuple[int, int],
    colours: tuple[int, ...],
    limits: tuple[int | None, int | None],
    constant: bool,
) -> None:
    parts = some(train, test, (*sides, *colours))
    if constant:
        parts["x_train"][...] = 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "own.npz", **parts)
        assert as_in_files(load("own", folder), folder)
        assert as_in_files(load("own", folder), folder)
        mapped = ResidentDataset.load("own", folder, "cpu", *limits)
        plain = ResidentDataset(read("own", folder), "cpu", *limits)
        pairs = [(mapped, plain)]
        if plain.size("train") > 1:
            pairs.append((mapped.hold_out(torch.tensor([1])), plain.hold_out(torch.tensor([1]))))
        for one, other in pairs:
            assert (one.num_classes, one.in_channels) == (other.num_classes, other.in_channels)
            assert torch.equal(one.mean, other.mean)
            assert torch.equal(one.deviation, other.deviation)
            for split in other.images:
                indices = torch.arange(other.size(split)).flip(0)
                for form in (torch.contiguous_format, torch.channels_last):
                    images, labels = one.batch(split, indices, form)
                    expected, expected_labels = other.batch(split, indices, form)
                    assert torch.equal(images, expected)
                    assert images.stride() == expected.stride()
                    assert torch.equal(labels, expected_labels)


def test_from_the_first_time_on_it_is_mapped(folder: Path) -> None:
    first = load("own", folder)
    assert is_mapped(first.x_train, place(folder))
    written = place(folder).stat()
    del first
    assert mappings(place(folder)) == []
    data = ResidentDataset.load("own", folder, "cpu")
    for part in (*data.images.values(), *data.labels.values()):
        assert is_mapped(part, place(folder))
    assert place(folder).stat().st_mtime_ns == written.st_mtime_ns
    assert sorted(path.name for path in folder.iterdir()) == ["own.npz", "prepared"]
    assert names(folder)[-1] == "own"


def test_what_comes_with_a_library_needs_no_file(tmp_path: Path) -> None:
    assert as_in_files(load("digits", tmp_path), tmp_path, "digits")
    assert list(tmp_path.iterdir()) == []


def test_nobody_writes_into_the_file(folder: Path) -> None:
    content = (load("own", folder), place(folder).read_bytes())[1]
    data = ResidentDataset.load("own", folder, "cpu")
    for split in data.images:
        data.images[split].zero_()
    assert place(folder).read_bytes() == content
    assert as_in_files(load("own", folder), folder)


def test_files_are_for_whom_the_user_wants(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADARELU_SWEEP_UMASK", "002")
    before = os.umask(0o077)
    try:
        load("own", folder)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert place(folder).parent.stat().st_mode & 0o777 == 0o775
    assert place(folder).stat().st_mode & 0o777 == 0o664


# Originals that change


@pytest.mark.parametrize("same_time", [False, True])
def test_a_changed_original_is_read_again(folder: Path, same_time: bool) -> None:
    old, original = load("own", folder), folder / "own.npz"
    before = original.stat()
    parts = some()
    parts["x_train"] = 255 - parts["x_train"]
    np.savez(folder / "new.npz", **parts)
    if same_time:
        os.utime(folder / "new.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder / "new.npz").replace(original)
        assert original.stat().st_mtime_ns == before.st_mtime_ns
    else:
        original.write_bytes((folder / "new.npz").read_bytes())  # in place
    assert original.stat().st_size == before.st_size
    still_mapped = old.x_train.clone()
    new = load("own", folder)
    assert as_in_files(new, folder)
    assert not torch.equal(new.x_train, still_mapped)
    assert torch.equal(old.x_train, still_mapped)
    assert equal(load("own", folder), new)


def test_every_file_of_a_set_counts(tmp_path: Path) -> None:
    raw = write_idx(tmp_path / "MNIST" / "raw", some(shape=(6, 7)))
    for seed, file in enumerate(NAMES.values()):
        load("mnist", tmp_path)
        content = bytearray((raw / file).read_bytes())
        content[-1] = seed + 1
        (raw / file).write_bytes(content)
        assert as_in_files(load("mnist", tmp_path), tmp_path, "mnist")
    np.savez(tmp_path / "mnist.npz", **some())  # comes first from now on
    assert as_in_files(load("mnist", tmp_path), tmp_path, "mnist")
    (tmp_path / "mnist.npz").unlink()
    assert as_in_files(load("mnist", tmp_path), tmp_path, "mnist")


def test_an_original_that_is_damaged_later_is_a_user_error(tmp_path: Path) -> None:
    raw = write_idx(tmp_path / "MNIST" / "raw", some(shape=(6, 7)))
    load("mnist", tmp_path)
    (raw / NAMES["y_train"]).write_bytes(idx_bytes(np.zeros(11)))
    with pytest.raises(UserError, match="11 labels for 12 images"):
        load("mnist", tmp_path)


# Damage


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small set that is prepared, and where nobody can have the lock any more."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "own.npz", **some(2, 1, (1, 1)))
    load("own", folder)
    lock = folder / "prepared" / ".own.lock"
    lock.unlink()
    lock.mkdir()
    return folder


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(sealed: Path, data: st.DataObject) -> None:
    whole = place(sealed).read_bytes()
    content = bytearray(whole)
    header = 8 + int.from_bytes(content[:8], "little")  # shorter than the images
    places = st.integers(0, header - 1) | st.integers(0, len(content) - 1)
    for where, bits in data.draw(
        st.lists(st.tuples(places, st.integers(1, 255)), max_size=3), label="flips"
    ):
        content[where] ^= bits
    kept = data.draw(st.just(len(content)) | places, label="kept")
    more = data.draw(st.binary(max_size=2), label="more")
    place(sealed).write_bytes(content[:kept] + more)
    try:
        assert as_in_files(load("own", sealed), sealed)
    finally:
        place(sealed).write_bytes(whole)


def test_what_was_damaged_is_whole_again(folder: Path) -> None:
    load("own", folder)
    content = place(folder).read_bytes()
    for damaged in (
        content[:-1],
        content[:50],
        b"",
        content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:],
        content.replace(b'"shape": [12, 3, 32, 32]', b'"shape": [12, 3, 64, 16]'),
        content.replace(b'"U8"', b'"I8"'),
    ):
        assert damaged != content
        place(folder).write_bytes(damaged)
        assert as_in_files(load("own", folder), folder)
        assert place(folder).read_bytes() == content


def test_what_a_killed_process_left_is_in_nobodys_way(folder: Path) -> None:
    (folder / "prepared").mkdir()
    (folder / "prepared" / ".own.lock").touch()
    (folder / "prepared" / "own.safetensors.tmp").write_bytes(bytes(10**6))
    assert as_in_files(load("own", folder), folder)
    left = sorted(path.name for path in (folder / "prepared").iterdir())
    assert left == [".own.lock", "own.safetensors"]


# Where nothing can be written


def test_a_file_or_a_folder_in_the_way(folder: Path) -> None:
    (folder / "prepared").touch()
    assert as_in_files(load("own", folder), folder)
    (folder / "prepared").unlink()
    place(folder).mkdir(parents=True)
    assert as_in_files(load("own", folder), folder)
    assert place(folder).is_dir()
    assert not place(folder).with_suffix(".safetensors.tmp").exists()


def test_without_room_it_is_read_as_ever(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert as_in_files(load("own", folder), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (folder / "prepared").iterdir()] == [".own.lock"]
    assert is_mapped(load("own", folder).x_train, place(folder))


def test_a_process_that_hangs_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_PATIENCE", 0.1)
    (folder / "prepared").mkdir()
    with (folder / "prepared" / ".own.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert as_in_files(load("own", folder), folder)
        assert not place(folder).exists()


# Several processes

# Forked, so that they begin at the same moment, and torch's own memory is that of all of them.
HOLDERS = """
import json, multiprocessing, sys, zlib
from pathlib import Path
import psutil, torch
from adarelu_sweep.datasets.resident import ResidentDataset
from tests.test_prepared import is_mapped

torch.set_num_threads(1)
folder, number = Path(sys.argv[1]), int(sys.argv[2])
fork = multiprocessing.get_context("fork")
together, said = fork.Barrier(number), fork.SimpleQueue()

def hold():
    process, total = psutil.Process(), 0
    own, read = process.memory_full_info().uss, process.io_counters().read_chars
    together.wait()
    data = ResidentDataset.load("own", folder, "cpu")
    read = process.io_counters().read_chars - read
    for part in (*data.images.values(), *data.labels.values(), data.mean, data.deviation):
        total = zlib.crc32(part.numpy(), total)
    together.wait()
    own = process.memory_full_info().uss - own
    together.wait()
    mapped = is_mapped(data.images["train"], folder / "prepared" / "own.safetensors")
    said.put((total, own, read, mapped))

processes = [fork.Process(target=hold) for _ in range(number)]
for each in processes:
    each.start()
print(json.dumps([said.get() for _ in processes]))
"""


def test_all_who_start_at_once_share_what_one_of_them_reads(tmp_path: Path) -> None:
    size = 100_000_000
    images = size // 3072
    pixels = np.resize(np.arange(251, dtype=np.uint8), (images, 32, 32, 3))
    labels = np.arange(images) % 7
    parts: dict[str, Any] = {"x_train": pixels, "y_train": labels}
    parts |= {"x_test": pixels[:1000], "y_test": labels[:1000]}
    np.savez(tmp_path / "own.npz", **parts)
    done = subprocess.run(
        [sys.executable, "-c", HOLDERS, str(tmp_path), "4"], stdout=subprocess.PIPE, check=True
    )
    sums, own, read_bytes, mapped = zip(*json.loads(done.stdout), strict=True)
    assert len(set(sums)) == 1
    # What the allocator keeps of the memory in which the one decoded it is not to be foreseen.
    assert sorted(own)[-2] < size / 5, own
    assert all(mapped)  # the one that prepared it, too: it keeps no copy beside the mapping
    # One reads the original and then what it has written; the others read that alone.
    assert sorted(read_bytes)[-2] < 1.5 * size < sorted(read_bytes)[-1], read_bytes
    files = sorted(path.name for path in (tmp_path / "prepared").iterdir())
    assert files == [".own.lock", "own.safetensors"]
    assert as_in_files(load("own", tmp_path), tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nothing_stays_mapped(folder: Path) -> None:
    load("own", folder)
    data = ResidentDataset.load("own", folder, "cuda")
    assert mappings(place(folder)) == []
    plain = ResidentDataset(npz.load(folder / "own.npz"), "cpu")
    assert torch.equal(data.images["train"].cpu(), plain.images["train"])
    assert torch.equal(data.mean.cpu(), plain.mean)
    assert torch.equal(data.deviation.cpu(), plain.deviation)
