"""Spoiled input of every kind: one clear line or a valid study, never a traceback, never a hang.

``ADARELU_FUZZ`` is the number of study files; of the other kinds there are fewer in proportion.
"""

import gzip
import json
import os
import random
import shutil
import socket
import sqlite3
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from math import prod
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from adarelu_sweep.datasets import idx
from adarelu_sweep.datasets.sources import check, read
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.operating import disk
from adarelu_sweep.operating.outline import outline
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.trials import TrialResult
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.supervising.state import state_of
from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.server import find_server, stop_server
from tests.mutations import STUDIES, override, spoiled_bytes, spoiled_text

EXAMPLES = int(os.environ.get("ADARELU_FUZZ", "400"))
SLOW = 20.0  # seconds that no single example takes, by far, on any machine


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("ADARELU_FUZZ_SEED", random.randrange(2**32)))
    print(f"again with: ADARELU_FUZZ={EXAMPLES} ADARELU_FUZZ_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _sizes_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are measured by a process of their own; thousands of them would take hours."""
    size = {"weights": 10**6, "trained": 10**6}
    monkeypatch.setattr(disk, "_ask", lambda parts: [size] * len(json.loads(parts)))


@contextmanager
def refused_or_not(example: object, outcomes: list[str]) -> Iterator[None]:
    """Either it is fine or it is refused in one line."""
    began = time.monotonic()
    try:
        yield
    except UserError as error:
        said = str(error)
        assert said.strip(), example
        assert len(said) < 1000, example
        outcomes.append(said)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\nof {example!r}") from error
    assert time.monotonic() - began < SLOW, f"it took too long: {example!r}"


def planned(path: Path, overrides: list[str], data: Path) -> None:
    """What ``validate`` does, but for the rehearsal; and the plan as a launch would record it."""
    study = read_study(path, overrides)
    outline(study, data, "none", None, home=Home(data / "home"))
    next(cells(study))
    type(study).model_validate_json(study.model_dump_json())


def test_study_files(draw: random.Random, tmp_path: Path) -> None:
    path, outcomes = tmp_path / "study.toml", list[str]()
    originals = [file.read_bytes() for file in STUDIES]
    for _ in range(EXAMPLES):
        content = spoiled_text(draw, draw.choice(originals))
        path.write_bytes(content)
        with refused_or_not(content, outcomes):
            planned(path, [], tmp_path)
    assert 0 < len(outcomes) < EXAMPLES
    for said in outcomes:
        assert said.startswith(str(path)) or "data set" in said, said
        assert len(said.splitlines()) == 1, said


def test_overrides(draw: random.Random, tmp_path: Path) -> None:
    outcomes = list[str]()
    for _ in range(EXAMPLES):
        path = draw.choice(STUDIES)
        given = [override(draw) for _ in range(draw.choice([1, 1, 2]))]
        with refused_or_not((path.name, given), outcomes):
            planned(path, given, tmp_path)
    assert 0 < len(outcomes) < EXAMPLES


def arrays(draw: random.Random) -> dict[str, np.ndarray]:
    images = np.frombuffer(draw.randbytes(6 * 64), np.uint8).reshape(6, 8, 8)
    labels = np.arange(6, dtype=np.uint8) % 3
    return {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2]}


def test_npz_files(draw: random.Random, tmp_path: Path) -> None:
    file, outcomes = tmp_path / "mine.npz", list[str]()
    originals = []
    for save in (np.savez, np.savez_compressed):
        buffer = BytesIO()
        save(buffer, **arrays(draw))
        originals.append(buffer.getvalue())
    count = max(20, EXAMPLES // 5)
    for _ in range(count):
        content = spoiled_bytes(draw, draw.choice(originals))
        file.write_bytes(content)
        with refused_or_not(content, outcomes):
            check("mine", tmp_path)
            read("mine", tmp_path)
    assert 0 < len(outcomes) <= count


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(draw: random.Random, tmp_path: Path, packed: bool) -> None:
    folder, outcomes = tmp_path / "MNIST" / "raw", list[str]()
    folder.mkdir(parents=True)
    whole = {}
    for key, array in arrays(draw).items():
        header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = header + array.tobytes()
        path = folder / (idx.NAMES[key] + (".gz" if packed else ""))
        whole[path] = gzip.compress(content) if packed else content
        path.write_bytes(whole[path])
    assert len(read("mnist", tmp_path).y_train) == 6
    count = max(20, EXAMPLES // 5)
    for _ in range(count):
        path = draw.choice(list(whole))
        content = spoiled_bytes(draw, whole[path])
        path.write_bytes(content)
        with refused_or_not((path.name, content), outcomes):
            check("mnist", tmp_path)
            read("mnist", tmp_path)
        path.write_bytes(whole[path])
    assert 0 < len(outcomes) <= count


# Databases and state


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a home with a study of one finished trial."""
    path = tmp_path_factory.mktemp("recorded") / "optuna.db"
    ledger = Ledger(path)
    text = (STUDIES[0].parent / "quickstart.toml").read_text()
    study = read_study(STUDIES[0].parent / "quickstart.toml")
    made = ledger.create(
        StudyRecord(uid="1", study=study, source=text, created="2026-01-01", version="0")
    )
    trial = made.begin(next(cells(study)), 1)
    made.complete(trial, TrialResult(accuracy=1.0, loss=1.0, epochs=1, diverged=False))
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


def looked_at(path: Path) -> None:
    """What ``status`` does."""
    ledger = Ledger.existing(path)
    try:
        for name in ledger.names():
            state_of(ledger.open(name), Home(path.parent))
    finally:
        ledger.close()


def test_spoiled_databases(draw: random.Random, recorded: Path, tmp_path: Path) -> None:
    outcomes, original = list[str](), recorded.read_bytes()
    count = max(20, EXAMPLES // 20)
    for index in range(count):
        path = tmp_path / str(index) / "optuna.db"
        path.parent.mkdir()
        path.write_bytes(spoiled_bytes(draw, original))
        with refused_or_not(path, outcomes):
            looked_at(path)
        shutil.rmtree(path.parent)
    assert 0 < len(outcomes) <= count


_CHANGES = {
    "a newer revision": "UPDATE alembic_version SET version_num = 'v99.9.9.a'",
    "no JSON": "UPDATE study_user_attributes SET value_json = '{'",
    "another JSON": "UPDATE study_user_attributes SET value_json = '[1, null]'",
    "no plan": "UPDATE study_user_attributes SET value_json = '\"{}\"'",
    "another name": "UPDATE studies SET study_name = '../../elsewhere'",
    "no states": "UPDATE trials SET state = 'ELSEWHERE'",
    "trials without settings": "DELETE FROM trial_user_attributes WHERE key != 'cell'",
    "trials of other settings": "UPDATE trial_user_attributes SET value_json = '[]'",
    "a plan that is no text": (
        "UPDATE study_user_attributes SET value_json = CAST(X'22ff22' AS TEXT)"
    ),
    "settings that are no text": (
        "UPDATE trial_user_attributes SET value_json = CAST(X'22ff22' AS TEXT)"
    ),
    "no trials": "DROP TABLE trials",
    "not Optuna's": "DROP TABLE version_info",
    "a newer plan": (
        "UPDATE study_user_attributes SET value_json = "
        'replace(replace(value_json, \'\\"execution\\":{\', \'\\"execution\\":{\\"added\\":1,\'),'
        ' \'\\"version\\":\\"0\\"\', \'\\"version\\":\\"99.1\\"\')'
    ),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_databases_of_others(recorded: Path, tmp_path: Path, change: str) -> None:
    path = tmp_path / "optuna.db"
    path.write_bytes(recorded.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(_CHANGES[change]).rowcount != 0
    before = dump(path)
    with pytest.raises(UserError) as raised:
        looked_at(path)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 500
    if change == "a newer plan":
        assert "it was recorded by '99.1'; use that version" in str(raised.value)
    assert dump(path) == before, "it was refused, and changed all the same"


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")
        return list(connection.iterdump())


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (value TEXT)")
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a usable Optuna database"):
        Ledger(path)
    assert path.read_bytes() == before


_GARBAGE = [
    *(b"", b"{", b"[]", b"null", b"\0\xff\xfe", b'{"pid": 1}', b"[" * 100_000, b"9" * 5000),
    b'{"pid": "x", "process_started": 1, "port": 1, "host": 1, "since": 1, "run_id": 7}',
    b'{"pid": 1e400, "process_started": 1e400, "port": 99999, "host": "a", "since": "b"}',
    b'{"pid": 99999999999999999999, "process_started": 1, "port": 5000, "host": "a", "since": ""}',
    b'{"pid": -1, "process_started": NaN, "port": 0, "host": "HERE", "since": "b"}',
    b'{"run_id": 1, "status": "ELSEWHERE", "epochs": -1, "tags": []}',
]


@pytest.mark.parametrize("content", _GARBAGE, ids=range(len(_GARBAGE)))
def test_garbage_in_the_files_that_say_who_and_what(tmp_path: Path, content: bytes) -> None:
    content = content.replace(b"HERE", socket.gethostname().encode())
    home = Home(tmp_path)
    for name in ("lease.json", "server.json", "delivered.json"):
        (tmp_path / name).write_bytes(content)
    assert Lease(tmp_path, "mine").holder() is None
    with Lease(tmp_path, "mine"):
        pass
    assert find_server(home) is None
    assert stop_server(home) is None
    assert Delivered.read(tmp_path, "u1") is None
    (tmp_path / "delivered.json").unlink(missing_ok=True)
    (tmp_path / "delivered.json").mkdir()
    assert Delivered.read(tmp_path, "u1") is None


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path, packing: int) -> None:
    """Headers and directory agree on 3 GB, and the file has a few hundred bytes."""
    path, shape = tmp_path / "mine.npz", (3 * 10**6, 32, 32)
    header = BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", packing) as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", header.getvalue() + bytes(1000))
    small = struct.pack("<I", len(header.getvalue()) + 1000)
    large = struct.pack("<I", len(header.getvalue()) + prod(shape))
    path.write_bytes(path.read_bytes().replace(small, large))
    for look in (check, read):
        with pytest.raises(UserError, match=r"mine\.npz"):
            look("mine", tmp_path)


def test_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    """An honest file with holes, of a set of several terabytes."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for key, name in idx.NAMES.items():
        shape = (2**32 - 1, 32, 32) if key.startswith("x") else (2**32 - 1,)
        with (folder / name).open("wb") as file:
            file.write(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape))
            file.truncate(file.tell() + prod(shape))
    with pytest.raises(UserError, match="GiB, more than this machine's memory"):
        read("mnist", tmp_path)
