"""Spoiled input of every kind: one clear line or a valid study, never a traceback, never a hang.

``ADARELU_FUZZ`` is the number of study files; of the other kinds there are fewer in proportion.
"""

import gzip
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from adarelu_sweep.datasets import idx
from adarelu_sweep.datasets.sources import check, read
from adarelu_sweep.errors import UserError
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.supervising.outline import outline
from tests.mutations import STUDIES, override, spoiled_bytes, spoiled_text

EXAMPLES = int(os.environ.get("ADARELU_FUZZ", "400"))
SLOW = 20.0  # seconds that no single example takes, by far, on any machine


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("ADARELU_FUZZ_SEED", random.randrange(2**32)))
    print(f"again with: ADARELU_FUZZ={EXAMPLES} ADARELU_FUZZ_SEED={seed}")
    return random.Random(seed)


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
    outline(study, data, "none", None)
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
