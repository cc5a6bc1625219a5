"""Data sets: where they come from, what is refused, and what a batch holds."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adarelu_sweep.datasets import catalog
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.download import download
from adarelu_sweep.datasets.idx import NAMES
from adarelu_sweep.datasets.npz import save
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.sources import Form, check, fetch, limited, names, read
from adarelu_sweep.datasets.tensors import subset
from adarelu_sweep.errors import UserError
from adarelu_sweep.training.streams import validation_split

DIGITS_SHA256 = "d6a64ff8fdeb1142176b8741ef490ff2ef9f2ba98a23b40fba29921af6237d74"


def some(train: int = 12, test: int = 5, shape: tuple[int, ...] = (6, 7, 3)) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": rng.integers(0, 4, train),
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": rng.integers(0, 4, test),
    }


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, parts: dict[str, Any], packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for key, name in NAMES.items():
        data = idx_bytes(parts[key])
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


def same(arrays: Arrays, parts: dict[str, Any]) -> bool:
    for key in NAMES:
        got, given_ = getattr(arrays, key), parts[key]
        assert got.dtype == (np.uint8 if key.startswith("x") else np.int64)
        if not np.array_equal(got, given_.reshape(got.shape)):
            return False
    return True


def digest(arrays: Arrays) -> str:
    parts = (arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


# Built in


def test_digits_are_enlarged_and_stratified(tmp_path: Path) -> None:
    arrays = read("digits", tmp_path)
    assert arrays.x_train.shape == (1437, 32, 32, 1)
    assert arrays.x_test.shape == (360, 32, 32, 1)
    assert (arrays.num_classes, arrays.channels) == (10, 1)
    assert arrays.x_train.max() == 255
    blocks = arrays.x_train.reshape(-1, 8, 4, 8, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    per_class = np.bincount(arrays.y_train) + np.bincount(arrays.y_test)
    assert np.abs(np.bincount(arrays.y_test) - per_class * 360 / 1797).max() < 1
    assert list(tmp_path.iterdir()) == []


def test_digits_are_the_same_in_every_process_and_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path\n"
        "from adarelu_sweep.datasets.sources import check, fetch, read\n"
        "folder = Path(sys.argv[1]); check('digits', folder); fetch('digits', folder)\n"
        "a = read('digits', folder); h = hashlib.sha256()\n"
        "for part in (a.x_train, a.y_train, a.x_test, a.y_test): h.update(part.tobytes())\n"
        "print(h.hexdigest(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [DIGITS_SHA256, "False"]
    assert digest(read("digits", tmp_path)) == DIGITS_SHA256


def test_what_is_built_in_is_known_without_its_data(tmp_path: Path) -> None:
    status = check("cifar100", tmp_path / "none")
    assert (status.present, status.num_train, status.num_test) == (False, 50000, 10000)
    assert status.where.endswith("cifar100.npz")
    assert status.limited(4000, None) == (4000, 10000)
    assert check("digits", tmp_path).where == "built in"


# Files


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(6, 7, 3), (6, 7, 1), (6, 7)])
def test_npz_round_trip(tmp_path: Path, write: Any, shape: tuple[int, ...]) -> None:
    parts = some(shape=shape)
    write(tmp_path / "own.npz", **parts)
    status = check("own", tmp_path)
    assert (status.form, status.num_train, status.num_test) == (Form.NPZ, 12, 5)
    arrays = read("own", tmp_path)
    assert arrays.x_train.shape == (12, 6, 7, shape[2] if len(shape) == 3 else 1)
    assert same(arrays, parts)
    save(arrays, tmp_path / "again.npz")
    assert same(read("again", tmp_path), parts)


@pytest.mark.parametrize("dtype", ["u1", "i4", ">i8", "u8"])
def test_keras_labels(tmp_path: Path, dtype: str) -> None:
    parts = some()
    as_keras = {k: v.reshape(-1, 1).astype(dtype) for k, v in parts.items() if k.startswith("y")}
    np.savez(tmp_path / "own.npz", **{**parts, **as_keras})
    assert same(read("own", tmp_path), parts)


def test_column_order_in_npz(tmp_path: Path) -> None:
    parts = some()
    np.savez(tmp_path / "own.npz", **{**parts, "x_train": np.asfortranarray(parts["x_train"])})
    assert same(read("own", tmp_path), parts)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    parts = some(shape=(6, 7))
    write_idx(tmp_path / "FashionMNIST" / "raw", parts, packed)
    status = check("fashion_mnist", tmp_path)
    assert (status.form, status.num_train, status.num_test) == (Form.IDX, 12, 5)
    assert same(read("fashion_mnist", tmp_path), parts)


def test_npz_comes_before_idx_and_plain_before_packed(tmp_path: Path) -> None:
    packed, plain, own = some(3, 2, (4, 4)), some(4, 2, (4, 4)), some(5, 2, (4, 4))
    raw = write_idx(tmp_path / "MNIST" / "raw", packed, packed=True)
    assert same(read("mnist", tmp_path), packed)
    for key, name in NAMES.items():
        (raw / name).write_bytes(idx_bytes(plain[key]))
    assert same(read("mnist", tmp_path), plain)
    np.savez(tmp_path / "mnist.npz", **own)
    assert same(read("mnist", tmp_path), own)
    np.savez(tmp_path / "digits.npz", **own)
    assert same(read("digits", tmp_path), own)


def test_incomplete_idx_files_are_absent(tmp_path: Path) -> None:
    raw = write_idx(tmp_path / "MNIST" / "raw", some(shape=(6, 7)))
    (raw / NAMES["y_test"]).unlink()
    assert not check("mnist", tmp_path).present


def test_a_folder_that_holds_the_data_is_not_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **some())
    tmp_path.chmod(0o555)
    try:
        fetch("cifar10", tmp_path)
        read("cifar10", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["cifar10.npz"]
    finally:
        tmp_path.chmod(0o755)


# Names


def test_names(tmp_path: Path) -> None:
    for name in ("own", "cifar10", ".hidden"):
        np.savez(tmp_path / f"{name}.npz", **some())
    assert names(tmp_path) == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "own"]
    with pytest.raises(UserError, match="did you mean 'own'"):
        check("owns", tmp_path)
    with pytest.raises(UserError, match="did you mean 'cifar100'"):
        read("cifar-100", tmp_path)


@pytest.mark.parametrize("name", ["", "..", "../own", "a/b", ".own", "-own", "own\n", "/own", "ö"])
def test_names_that_would_not_be_safe_as_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a name"):
        check(name, tmp_path)


# Damage


def without(parts: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if name != key}


WRONG = {
    "no array y_test": lambda p: without(p, "y_test"),
    "holds float32, not uint8": lambda p: {**p, "x_train": p["x_train"].astype(np.float32)},
    "holds float64, not integers": lambda p: {**p, "y_train": p["y_train"] / 1},
    "holds bool, not integers": lambda p: {**p, "y_test": p["y_test"] > 1},
    "x_train in .* holds object": lambda p: {**p, "x_train": np.array([{}, {}])},
    "y_test in .* holds object": lambda p: {**p, "y_test": p["y_test"].astype(object)},
    "has the shape .12, 3, 6, 7.": lambda p: {**p, "x_train": p["x_train"].transpose(0, 3, 1, 2)},
    "has the shape .12,.": lambda p: {**p, "x_train": p["x_train"][:, 0, 0, 0]},
    "has the shape ..,": lambda p: {**p, "x_train": np.uint8(3)},
    "has the shape .12, 0, 7, 3.": lambda p: {**p, "x_train": p["x_train"][:, :0]},
    "has the shape .12, 4.": lambda p: {**p, "y_train": np.eye(12, 4, dtype=int)},
    "11 labels for 12 images": lambda p: {**p, "y_train": p["y_train"][1:]},
    "x_test in .* is empty": lambda p: {**p, "x_test": p["x_test"][:0], "y_test": p["y_test"][:0]},
    "has the label -1": lambda p: {**p, "y_train": p["y_train"] * 0 - 1},
    "has the label 1000000": lambda p: {**p, "y_test": p["y_test"] * 0 + 1000000},
    "6 x 6 x 3, not 6 x 7 x 3": lambda p: {**p, "x_test": p["x_test"][:, :, 1:]},
}
VALUES = ("has the label -1", "has the label 1000000")


@pytest.mark.parametrize("message", WRONG)
def test_wrong_npz(tmp_path: Path, message: str) -> None:
    change: Callable[[dict[str, Any]], dict[str, Any]] = WRONG[message]
    np.savez(tmp_path / "own.npz", **change(some()))
    with pytest.raises(UserError, match=message) as caught:
        read("own", tmp_path)
    assert "own.npz" in str(caught.value)
    assert "write the file again" in str(caught.value)
    assert "\n" not in str(caught.value)
    if message not in VALUES:
        with pytest.raises(UserError, match=message):
            check("own", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file" * 9, None])
def test_npz_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mnist.npz"
    if content is None:
        np.savez(path, **some())
        content = path.read_bytes()[:-200]
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"mnist\.npz .*delete it and run `adarelu-sweep data fetch"
    ):
        check("mnist", tmp_path)


def test_damaged_pixels_in_npz_are_found_by_read(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **some(train=500))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert check("own", tmp_path).num_train == 500
    with pytest.raises(UserError, match=r"own\.npz is not a readable npz file"):
        read("own", tmp_path)


def test_a_folder_or_a_file_in_the_wrong_place(tmp_path: Path) -> None:
    (tmp_path / "own.npz").mkdir()
    with pytest.raises(UserError, match=r"own\.npz cannot be read"):
        check("own", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        check("mnist", tmp_path / "file")


DAMAGE = {
    "is not an idx file": lambda data: b"\0\0\x0d\x03" + data[4:],
    "is not an idx file of": lambda data: data[:7],
    "its header asks for 520": lambda data: data[:-1],
    "holds 521 bytes": lambda data: data + b"\0",
    "asks for": lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:],
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_idx(tmp_path: Path, message: str, packed: bool) -> None:
    raw = write_idx(tmp_path / "MNIST" / "raw", some(shape=(6, 7)), packed)
    damage: Callable[[bytes], bytes] = DAMAGE[message]
    path = raw / (NAMES["x_train"] + ".gz" * packed)
    data = path.read_bytes()
    changed = damage(gzip.decompress(data) if packed else data)
    path.write_bytes(gzip.compress(changed) if packed else changed)
    with pytest.raises(UserError, match=message) as caught:
        check("mnist", tmp_path)
    assert str(path) in str(caught.value)
    assert "adarelu-sweep data fetch mnist" in str(caught.value)


def test_idx_files_that_do_not_belong_together(tmp_path: Path) -> None:
    raw = write_idx(tmp_path / "MNIST" / "raw", some(shape=(6, 7)))
    (raw / NAMES["y_train"]).write_bytes(idx_bytes(np.zeros(11)))
    with pytest.raises(UserError, match="11 labels for 12 images"):
        check("mnist", tmp_path)


def _npz(packed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **some(3, 2, (2, 2)))
    return buffer.getvalue()


PIXELS = idx_bytes(some(3, 2, (2, 2))["x_train"])
VICTIMS = {
    "own.npz": _npz(False),
    "packed.npz": _npz(True),
    "train-images-idx3-ubyte": PIXELS,
    "train-images-idx3-ubyte.gz": gzip.compress(PIXELS, mtime=0),
}


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("victim", VICTIMS)
@given(data=st.data())
def test_any_damage_is_a_user_error_or_does_no_harm(victim: str, data: st.DataObject) -> None:
    content = bytearray(VICTIMS[victim])
    places = st.integers(0, len(content) - 1)
    for place, bits in data.draw(
        st.lists(st.tuples(places, st.integers(1, 255)), max_size=3), label="flips"
    ):
        content[place] ^= bits
    kept = data.draw(st.one_of(st.just(len(content)), places), label="kept")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        if victim.endswith(".npz"):
            name = victim.removesuffix(".npz")
            path = data_dir / victim
        else:
            name = "mnist"
            raw = write_idx(data_dir / "MNIST" / "raw", some(3, 2, (2, 2)))
            (raw / "train-images-idx3-ubyte").unlink()
            path = raw / victim
        path.write_bytes(content[:kept])
        try:
            check(name, data_dir)
            arrays = read(name, data_dir)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert arrays.x_train.shape == (3, 2, 2, 1)
            assert arrays.x_train.dtype == np.uint8
            assert arrays.y_train.dtype == np.int64
            assert arrays.num_classes <= 4


# Downloads


class Mirror:
    """A web server on this machine with MNIST's four files, below any folder that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.parts = some(shape=(6, 7))
        self.files = write_idx(folder / "files", self.parts, packed=True)
        self.resources = [
            (path.name, hashlib.md5(path.read_bytes()).hexdigest())
            for path in sorted(self.files.iterdir())
        ]
        self.requests: list[tuple[str, str]] = []  # folder, file
        requests = self.requests

        class Handler(SimpleHTTPRequestHandler):
            def translate_path(self, path: str) -> str:
                _, folder, file = path.split("/")
                requests.append((folder, file))
                return super().translate_path(f"/{file}")

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(self.files))
        )
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    mirror = Mirror(tmp_path_factory.mktemp("mirror"))
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


@pytest.mark.long
def test_two_that_fetch_at_once_download_once(
    tmp_path: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The processes that fetch starts know the mirror by this module, and ask for it by their id.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'adarelu_sweep.datasets.download' in sys.orig_argv:\n"
        "    from torchvision.datasets import MNIST\n"
        f"    MNIST.mirrors = [f'{mirror.address}/{{os.getpid()}}/']\n"
        f"    MNIST.resources = {mirror.resources!r}\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    folder = tmp_path / "new" / "data"
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, ["mnist"] * 2, [folder] * 2)
    assert first == second
    assert (first.form, first.place) == (Form.NPZ, folder / "mnist.npz")
    assert len({process for process, _ in mirror.requests}) == 1
    assert {file for _, file in mirror.requests} == {file for file, _ in mirror.resources}
    assert same(read("mnist", folder), mirror.parts)
    assert sorted(path.name for path in folder.iterdir()) == [".mnist.lock", "mnist.npz"]
    assert capfd.readouterr().out == ""


def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    tmp_path: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [mirror.nobody, f"{mirror.address}/any/"])
    monkeypatch.setattr(MNIST, "resources", mirror.resources)
    truncated = mirror.files / "train-labels-idx1-ubyte.gz"
    truncated.write_bytes(truncated.read_bytes()[:-3])
    (tmp_path / ".mnist.part").mkdir()
    (tmp_path / ".mnist.part" / "left").write_text("by a process that was killed")
    with pytest.raises(UserError) as caught:
        download("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist could not be downloaded (Error downloading train-labels")
    assert "Connection refused" in message
    for words in (str(tmp_path), "mnist.npz", "MNIST/raw", "t10k-labels-idx1-ubyte", "uint8"):
        assert words in message
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == [".mnist.lock"]
    assert capfd.readouterr().out == ""


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*choose another folder"):
        fetch("mnist", tmp_path / "file" / "data")


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """CIFAR-100's archive in the data folder, but of few images, with MD5s that match."""
    import torchvision.datasets

    cifar = torchvision.datasets.CIFAR100
    parts = some(9, 4, (32, 32, 3))
    packed = io.BytesIO()
    md5 = {}
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("train", "test", "meta"):
            content: dict[str, Any] = {"fine_label_names": ["a", "b", "c", "d"]}
            if name != "meta":
                rows = parts[f"x_{name}"].transpose(0, 3, 1, 2).reshape(-1, 3072)
                content = {"data": rows, "fine_labels": parts[f"y_{name}"].tolist()}
            data = pickle.dumps(content)
            md5[name] = hashlib.md5(data).hexdigest()
            entry = tarfile.TarInfo(f"{cifar.base_folder}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / cifar.filename).write_bytes(packed.getvalue())
    monkeypatch.setattr(cifar, "url", "http://127.0.0.1:9/")
    monkeypatch.setattr(cifar, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setattr(cifar, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(cifar, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5["meta"]})
    known = replace(
        catalog.BUILT_IN["cifar100"],
        num_train=9,
        num_test=4,
        batches={"train": 9, "test": 4, "meta": 0},
    )
    monkeypatch.setitem(catalog.BUILT_IN, "cifar100", known)
    return parts


def test_an_archive_put_there_by_hand(tmp_path: Path, small_cifar: dict[str, Any]) -> None:
    assert not check("cifar100", tmp_path).present
    download("cifar100", tmp_path)
    assert check("cifar100", tmp_path).form is Form.NPZ
    assert same(read("cifar100", tmp_path), small_cifar)
    assert not (tmp_path / ".cifar100.part").exists()


def test_a_damaged_archive_is_kept_and_named(tmp_path: Path, small_cifar: dict[str, Any]) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    before = archive.read_bytes()
    with pytest.raises(UserError, match=r"tar\.gz does not have the published MD5: delete it"):
        download("cifar100", tmp_path)
    assert archive.read_bytes() == before


def test_batches_that_are_there_already(tmp_path: Path, small_cifar: dict[str, Any]) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    archive.unlink()
    assert fetch("cifar100", tmp_path).form is Form.BATCHES
    assert same(read("cifar100", tmp_path), small_cifar)
    batch = tmp_path / "cifar-100-python" / "train"
    batch.write_bytes(batch.read_bytes() + b"\0")
    with pytest.raises(UserError, match="without its published MD5: delete it and run"):
        read("cifar100", tmp_path)
    batch.write_bytes(batch.read_bytes()[:3000])
    with pytest.raises(UserError, match="train is too short for 9 images"):
        check("cifar100", tmp_path)


# On the device


def arrays_of(parts: dict[str, Any]) -> Arrays:
    return Arrays(parts["x_train"], parts["y_train"], parts["x_test"], parts["y_test"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("train_limit", [None, 7])
def test_normalization(memory_format: torch.memory_format, train_limit: int | None) -> None:
    parts = some(shape=(40, 33, 3))
    parts["x_train"][..., 1] = 9
    data = ResidentDataset(arrays_of(parts), "cpu", train_limit)
    chosen = np.arange(12)[subset(12, train_limit)]
    used = parts["x_train"][chosen].astype(np.float64)
    mean, deviation = used.mean((0, 1, 2)), used.std((0, 1, 2))
    deviation[1] = 1
    indices = torch.tensor([3, 0, 3])
    for split, x, y in (
        ("train", used, parts["y_train"][chosen]),
        ("test", parts["x_test"], parts["y_test"]),
    ):
        images, labels = data.batch(split, indices, memory_format)  # type: ignore[arg-type]
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=memory_format)
        expected = ((x - mean) / deviation)[indices].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-5)
        assert labels.dtype == torch.int64
        assert labels.tolist() == y[indices].tolist()
    assert (data.in_channels, data.num_classes) == (3, 4)
    assert data.images["train"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("sides", "rows", "columns"),
    [((28, 28), (2, 2), (2, 2)), ((31, 40), (0, 1), (0, 0)), ((32, 32), (0, 0), (0, 0))],
)
def test_padding(sides: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    parts = some(shape=(*sides, 1))
    data = ResidentDataset(arrays_of(parts), "cpu")
    expected = np.pad(parts["x_test"][..., 0], ((0, 0), rows, columns))[:, None]
    assert np.array_equal(data.images["test"].numpy(), expected)
    assert data.mean.item() == pytest.approx(parts["x_train"].mean())
    images, _ = data.batch("train", torch.arange(12))
    if rows[0]:
        black = (0 - data.mean) / data.deviation
        assert images[5, 0, 0, 0].item() == pytest.approx(black.item())


def test_limits_take_a_fixed_subset() -> None:
    chosen = subset(60000, 4)
    assert isinstance(chosen, np.ndarray)
    assert chosen.tolist() == [39454, 33080, 15091, 40222]
    longer = subset(60000, 5000)
    assert isinstance(longer, np.ndarray)
    assert len(set(longer.tolist())) == 5000
    assert longer[:4].tolist() == chosen.tolist()
    assert subset(10, 10) == subset(10, 11) == subset(10, None) == slice(None)
    with pytest.raises(UserError, match="leaves none"):
        limited(10, 0)


def test_sizes(tmp_path: Path) -> None:
    data = ResidentDataset.load("digits", tmp_path, "cpu", 1000, 999)
    assert (data.size("train"), data.size("test")) == (1000, 360)


def test_classes_are_those_of_the_whole_set() -> None:
    parts = some()
    parts["y_test"][-1] = 41
    assert ResidentDataset(arrays_of(parts), "cpu", 1, 1).num_classes == 42


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    images=st.integers(2, 300),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_a_validation_split_is_some_of_the_images(seed: int, images: int, fraction: float) -> None:
    held_out = validation_split(seed, images, fraction)
    assert held_out.dtype == torch.int64
    listed = held_out.tolist()
    assert listed == sorted(set(listed))
    assert set(listed) <= set(range(images))
    assert 1 <= len(listed) <= images - 1
    assert abs(len(listed) - fraction * images) <= 1
    torch.rand(3)
    assert torch.equal(validation_split(seed, images, fraction), held_out)


def test_a_validation_split_differs_by_seed_and_has_every_image_alike() -> None:
    splits = [validation_split(seed, 40, 0.25) for seed in range(400)]
    assert all(len(split) == 10 for split in splits)
    assert len({tuple(split.tolist()) for split in splits}) == 400
    times = torch.bincount(torch.cat(splits), minlength=40)
    assert (times - 100).abs().max() < 45  # five standard deviations


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_for_a_validation_split(images: int) -> None:
    with pytest.raises(UserError, match="needs 2 training images"):
        validation_split(0, images, 0.5)


@pytest.mark.parametrize("sides", [(28, 28), (33, 40)])
@pytest.mark.parametrize("colours", [1, 3])
def test_what_is_held_out_is_seen_by_nothing(sides: tuple[int, int], colours: int) -> None:
    parts = some(shape=(*sides, colours))
    held_out = torch.tensor([1, 4, 11])
    parts["x_train"][held_out] = 255  # would show in mean and deviation
    whole = ResidentDataset(arrays_of(parts), "cpu")
    mean, images = whole.mean.clone(), whole.images["train"].clone()
    part = whole.hold_out(held_out)
    assert set(part.images) == set(part.labels) == {"train", "val"}
    assert (part.size("train"), part.size("val")) == (9, 3)
    with pytest.raises(KeyError):
        part.batch("test", held_out)

    rest = [index for index in range(12) if index not in held_out]
    used = parts["x_train"][rest].astype(np.float64)
    mean_of_rest, deviation = used.mean((0, 1, 2)), used.std((0, 1, 2))
    np.testing.assert_allclose(part.mean.flatten(), mean_of_rest, rtol=1e-6)
    np.testing.assert_allclose(part.deviation.flatten(), deviation, rtol=1e-6)
    for split, indices in (("train", rest), ("val", held_out.tolist())):
        assert torch.equal(part.images[split], images[indices])  # type: ignore[index]
        assert part.labels[split].tolist() == parts["y_train"][indices].tolist()  # type: ignore[index]
    # The whole set is as it was, and makes other splits.
    assert set(whole.images) == {"train", "test"}
    assert torch.equal(whole.mean, mean)
    assert torch.equal(whole.images["train"], images)
    assert whole.hold_out(torch.tensor([0])).size("train") == 11


def test_a_batch_is_changed_before_it_is_normalized() -> None:
    data = ResidentDataset(arrays_of(some(shape=(32, 32, 3))), "cpu")
    indices = torch.tensor([5, 2, 2])
    seen = []

    def darken(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        seen.append((images.dtype, which))
        return images // 2

    images, labels = data.batch("train", indices, torch.channels_last, darken)
    [(dtype, which)] = seen
    assert dtype == torch.uint8
    assert torch.equal(which, indices)
    raw = data.images["train"][indices]
    torch.testing.assert_close(images, (torch.floor(raw / 2) - data.mean) / data.deviation)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels, data.labels["train"][indices])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_do_not_wait_for_the_device() -> None:
    arrays = arrays_of(some(shape=(28, 28, 1)))
    data, reference = ResidentDataset(arrays, "cuda"), ResidentDataset(arrays, "cpu")
    indices = torch.tensor([4, 1, 1], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = data.batch("train", indices, torch.channels_last)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_labels = reference.batch("train", indices.cpu())
    torch.testing.assert_close(images.cpu(), expected)
    assert labels.tolist() == expected_labels.tolist()


# Real data


@pytest.mark.skipif(
    "ADARELU_SWEEP_DATA" not in os.environ, reason="ADARELU_SWEEP_DATA names no data folder"
)
def test_real_mnist() -> None:
    data_dir = Path(os.environ["ADARELU_SWEEP_DATA"])
    status = check("mnist", data_dir)
    if not status.present:
        pytest.skip("the data folder holds no MNIST")
    data = ResidentDataset(read("mnist", data_dir), "cpu")
    assert (status.num_train, status.num_test, data.num_classes) == (60000, 10000, 10)
    assert data.images["train"].shape == (60000, 1, 32, 32)
    assert data.mean.item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert data.deviation.item() / 255 == pytest.approx(0.3081, abs=1e-4)
