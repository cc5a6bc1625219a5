"""Which data sets there are, where each one lies, and whether it looks usable. No torch here."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from adarelu_sweep.components import unknown
from adarelu_sweep.datasets import idx, npz
from adarelu_sweep.datasets.arrays import DamagedError
from adarelu_sweep.errors import UserError
from adarelu_sweep.storing.places import Place


@dataclass(frozen=True)
class BuiltIn:
    """What is known of a built-in data set before any of it is read."""

    name: str
    num_train: int
    num_test: int
    torchvision: str = ""  # the class that downloads it; none is needed where this is empty
    folder: str = ""  # torchvision's place for its files, below the data folder
    batches: Mapping[str, int] = field(default_factory=dict)  # CIFAR's files, images in each
    archive: str = ""  # the file that torchvision downloads and unpacks to the batches
    channels: int = 1
    num_classes: int = 10


BUILT_IN = {
    entry.name: entry
    for entry in (
        BuiltIn("digits", 1437, 360),
        BuiltIn("mnist", 60000, 10000, "MNIST", "MNIST/raw"),
        BuiltIn("fashion_mnist", 60000, 10000, "FashionMNIST", "FashionMNIST/raw"),
        BuiltIn(
            "cifar10",
            50000,
            10000,
            "CIFAR10",
            "cifar-10-batches-py",
            {f"data_batch_{i}": 10000 for i in range(1, 6)}
            | {"test_batch": 10000, "batches.meta": 0},
            "cifar-10-python.tar.gz",
            channels=3,
        ),
        BuiltIn(
            "cifar100",
            50000,
            10000,
            "CIFAR100",
            "cifar-100-python",
            {"train": 50000, "test": 10000, "meta": 0},
            "cifar-100-python.tar.gz",
            channels=3,
            num_classes=100,
        ),
    )
}


class Form(StrEnum):
    """In which form a data set is at hand."""

    NPZ = "npz"
    IDX = "idx"
    BATCHES = "batches"
    BUILT_IN = "built in"
    ABSENT = "absent"


@dataclass(frozen=True)
class Status:
    """Where a data set is, and how many images it has.

    ``place`` is the file or folder, or None where the data comes with a library. Where the form is
    ABSENT, ``place`` is the file that ``fetch`` would write and the numbers are the published ones.
    """

    name: str
    form: Form
    place: Path | None
    num_train: int
    num_test: int

    @property
    def present(self) -> bool:
        """Whether it can be read without a download."""
        return self.form is not Form.ABSENT

    @property
    def where(self) -> str:
        """The place in words: a path, or ``built in``."""
        return str(self.place) if self.place else "built in"

    @property
    def files(self) -> list[Path]:
        """The files that are read; none where the data comes with a library or is absent."""
        match self.form, self.place:
            case Form.NPZ, Path() as file:
                return [file]
            case Form.IDX, Path() as folder:
                return list((idx.find(folder) or {}).values())
            case Form.BATCHES, Path() as folder:
                return [folder / name for name in BUILT_IN[self.name].batches]
        return []

    def limited(self, train_limit: int | None, test_limit: int | None) -> tuple[int, int]:
        """Return the numbers of training and test images that a trial with these limits uses."""
        return limited(self.num_train, train_limit), limited(self.num_test, test_limit)


def limited(size: int, limit: int | None) -> int:
    """Return how many of ``size`` images a limit (at least 1; None or too large: all) leaves."""
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} images leaves none: give 1 or more, or no limit")
    return size if limit is None else min(size, limit)


def names(data_dir: Place) -> list[str]:
    """Return the built-in names, then those of the other npz files in the data folder."""
    own = sorted(file.name.removesuffix(".npz") for file in data_dir.glob("*.npz"))
    return [*BUILT_IN, *(name for name in own if name not in BUILT_IN and _is_name(name))]


def forms(name: str) -> list[list[tuple[str, ...]]]:
    """Return the files below a data folder that make a data set up, one list for each form.

    A file may have any of the names that are given for it. As in ``check``, the first form comes
    first, and the same names are refused. What ``download`` makes a data set of is a form, too.
    """
    _require_name(name)
    possible: list[list[tuple[str, ...]]] = [[(f"{name}.npz",)]]
    if (known := BUILT_IN.get(name)) is None:
        return possible
    if not known.torchvision:
        return [*possible, []]
    if known.batches:
        possible.append([(f"{known.folder}/{file}",) for file in known.batches])
        return [*possible, [(known.archive,)]]
    plain = [f"{known.folder}/{file}" for file in idx.NAMES.values()]
    return [*possible, [(file, f"{file}.gz") for file in plain]]


def check(name: str, data_dir: Path) -> Status:
    """Say where a data set is. Quick: it reads headers and sizes, not the images.

    ``<name>.npz`` in the data folder comes first, then torchvision's own files there. Raises
    UserError when the name is not known, and when a file is there but damaged or of the wrong kind.
    """
    _require_name(name)
    with damage_explained(name, data_dir):
        if data_dir.exists() and not data_dir.is_dir():
            raise UserError(f"the data folder {data_dir} is not a folder: choose another one")
        file = data_dir / f"{name}.npz"
        if file.exists():
            return Status(name, Form.NPZ, file, *npz.peek(file))
        known = BUILT_IN.get(name)
        if known is None:
            raise UserError(unknown("data set", name, names(data_dir)))
        published = known.num_train, known.num_test
        if not known.torchvision:
            return Status(name, Form.BUILT_IN, None, *published)
        folder = data_dir / known.folder
        if known.batches:
            if _has_batches(folder, known.batches):
                return Status(name, Form.BATCHES, folder, *published)
        elif files := idx.find(folder):
            return Status(name, Form.IDX, folder, *idx.peek(files))
        return Status(name, Form.ABSENT, file, *published)


def prepared_file(name: str, data_dir: Path) -> Path:
    """Return where a data set is as it is mapped, if it was prepared (``datasets.prepared``)."""
    return data_dir / "prepared" / f"{name}.safetensors"


@contextmanager
def damage_explained(name: str, data_dir: Path) -> Iterator[None]:
    """Turn DamagedError and OSError into a UserError that says what to do."""
    try:
        yield
    except DamagedError as error:
        raise UserError(f"{error}: {_remedy(name)}") from None
    except OSError as error:
        place = error.filename or data_dir
        raise UserError(f"{place} cannot be read: {error.strerror or error}") from None


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is not None


def _require_name(name: str) -> None:
    if not _is_name(name):
        raise UserError(
            f"{name!r} is not a name for a data set: use letters, digits, '_', '-' and '.', "
            "and start with a letter, a digit or '_'"
        )


def _has_batches(folder: Path, batches: Mapping[str, int]) -> bool:
    files = {folder / file: images for file, images in batches.items()}
    if not all(path.exists() for path in files):
        return False
    for path, images in files.items():
        if path.stat().st_size < images * 3072:
            raise DamagedError(f"{path} is too short for {images} images of 32 x 32 x 3 bytes")
    return True


def _remedy(name: str) -> str:
    if name not in BUILT_IN:
        return f"write the file again ({npz.FORMAT})"
    if not BUILT_IN[name].torchvision:
        return "delete it, the data set is built in"
    return f"delete it and run `adarelu-sweep data fetch {name}`"
