"""Downloads through torchvision, in a process of their own: ``python -m THIS_MODULE NAME FOLDER``.

torchvision brings torch along, which the process that supervises must never import, and prints to
stdout. The process prints nothing there but the message of a UserError, and then exits with 2.
"""

import shutil
import socket
import sys
import warnings
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten

import numpy as np
from filelock import FileLock

from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.arrays import KEYS, Arrays, DamagedError, checked_arrays
from adarelu_sweep.datasets.catalog import BUILT_IN, BuiltIn, check
from adarelu_sweep.datasets.idx import NAMES
from adarelu_sweep.errors import UserError

SILENCE = 20.0  # seconds without a byte from the network, after which a download has failed


def download(name: str, data_dir: Path) -> None:
    """Download a built-in data set and write it as ``<name>.npz``, unless it is there.

    Processes that want the same data set wait for one another and find it there. All is prepared in
    a folder aside, so that whatever goes wrong, the data folder holds the whole file or none.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f".{name}.lock"):
            if check(name, data_dir).present:
                return
            aside = data_dir / f".{name}.part"
            shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
            aside.mkdir()
            try:
                npz.save(_downloaded(BUILT_IN[name], data_dir, aside), aside / f"{name}.npz")
                (aside / f"{name}.npz").replace(data_dir / f"{name}.npz")
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the data folder {data_dir} cannot be written ({reason}): choose another folder, "
            "or mend this one"
        ) from None


def load_originals(known: BuiltIn, root: Path, *, fetch: bool = False) -> Arrays:
    """Load torchvision's own files below ``root``; where ``fetch`` is set, download them first.

    torchvision checks the MD5 of every file before it unpickles it. Raises what torchvision raises,
    and DamagedError when files are missing or do not have their MD5.
    """
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, known.torchvision)
    parts = {}
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy deprecates what CIFAR's pickles were made with
        for split in ("train", "test"):
            try:
                loaded = dataset(root, train=split == "train", download=fetch)
            except RuntimeError:
                if fetch:
                    raise
                raise DamagedError(
                    f"{root / known.folder} holds a file without its published MD5"
                ) from None
            parts[f"x_{split}"] = np.asarray(loaded.data)
            parts[f"y_{split}"] = np.asarray(loaded.targets)
    return checked_arrays(parts, {key: f"{key} in {root / known.folder}" for key in KEYS})


def _downloaded(known: BuiltIn, data_dir: Path, aside: Path) -> Arrays:
    archive = data_dir / known.archive
    try:
        if known.archive and archive.exists():
            _take_archive(known, archive, aside)
        return load_originals(known, aside, fetch=True)
    # HTTPException: torchvision lets what http.client raises through.
    except (OSError, RuntimeError, HTTPException) as error:
        if known.archive:
            files = f"{known.archive} (as published)"
        else:
            files = f"{', '.join(NAMES.values())} (idx files, plain or .gz) in {known.folder}"
        raise UserError(
            f"{known.name} could not be downloaded ({shorten(str(error), 300)}): try again with a "
            f"connection, or put by hand into {data_dir} either {files}, "
            f"or {known.name}.npz ({npz.FORMAT})"
        ) from None


def _take_archive(known: BuiltIn, archive: Path, aside: Path) -> None:
    """Let torchvision find an archive that was put there by hand, if its MD5 is right."""
    import torchvision.datasets
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(archive, getattr(torchvision.datasets, known.torchvision).tgz_md5):
        raise UserError(f"{archive} does not have the published MD5: delete it, or copy it again")
    (aside / known.archive).symlink_to(archive.resolve())


def main() -> None:
    """Download the data set that the arguments name."""
    name, data_dir = sys.argv[1:]
    socket.setdefaulttimeout(SILENCE)  # torchvision sets none, and would wait for ever
    try:
        download(name, Path(data_dir))
    except UserError as error:
        print(error)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # the process that waits for this one says so


if __name__ == "__main__":
    main()
