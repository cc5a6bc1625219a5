"""The data sets: ``check`` says where one is, ``fetch`` makes it present, ``read`` loads it.

Names are the built-in ones (digits, mnist, fashion_mnist, cifar10, cifar100) and those of the npz
files in the data folder. Importing this module does not import torch, and neither do ``check`` and
``fetch``.
"""

import subprocess
from pathlib import Path

import numpy as np

from adarelu_sweep.datasets import idx, npz
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.catalog import (
    BUILT_IN,
    Form,
    Status,
    check,
    damage_explained,
    limited,
    names,
)
from adarelu_sweep.errors import UserError
from adarelu_sweep.privacy import users_umask
from adarelu_sweep.processes import own_command

__all__ = ["Arrays", "Form", "Status", "check", "fetch", "limited", "names", "read"]


def fetch(name: str, data_dir: Path) -> Status:
    """Make a data set present, by a download where it is not, and return where it is.

    Nothing is written where it is present already, so the data folder may then be read-only.
    Processes that fetch the same one at once download it once. Raises UserError, as ``check`` does
    and when the download fails or the data folder cannot be written.
    """
    status = check(name, data_dir)
    if status.present:
        return status
    command = own_command("adarelu_sweep.datasets.download", name, str(data_dir))
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        umask=users_umask(),  # the data folder may be shared
    )
    if done.returncode:
        reason = done.stdout.strip() or f"its process ended with status {done.returncode}"
        raise UserError(reason if done.returncode == 2 else f"fetching {name} failed: {reason}")
    return check(name, data_dir)


def read(name: str, data_dir: Path) -> Arrays:
    """Load a whole data set and check all of it, after ``fetch`` where it is not present.

    Raises UserError as ``fetch`` does, and when anything in the files is not as it must be.
    """
    status = fetch(name, data_dir)
    with damage_explained(name, data_dir):
        match status.form, status.place:
            case Form.NPZ, Path() as file:
                return npz.load(file)
            case Form.IDX, Path() as folder if files := idx.find(folder):
                return idx.load(files)
            case Form.BATCHES, _:
                # Imports torchvision, whose check of the MD5s makes it safe to unpickle.
                from adarelu_sweep.datasets.download import load_originals

                return load_originals(BUILT_IN[name], data_dir)
            case Form.BUILT_IN, _:
                return _digits()
    raise UserError(f"{status.where} went away while it was read: run it again")


def _digits() -> Arrays:
    """scikit-learn's digits, with their 8 x 8 pixels enlarged to 32 x 32."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    small = np.round(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    images, labels = small.repeat(4, axis=1).repeat(4, axis=2), y.astype(np.int64)
    known = BUILT_IN["digits"]
    train, test = train_test_split(
        np.arange(len(labels)),
        train_size=known.num_train,
        test_size=known.num_test,
        stratify=labels,
        random_state=0,
    )
    return Arrays(images[train], labels[train], images[test], labels[test])
