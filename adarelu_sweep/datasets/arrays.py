"""What a data set is once it is read: four numpy arrays, and the rules that they keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

KEYS = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 100_000

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""The shape and the type of each of the four arrays."""


class DamagedError(Exception):
    """A data file that cannot be used: its message names the file and says what is wrong."""


@dataclass(frozen=True)
class Arrays:
    """A data set: images uint8 N x H x W x C with C 1 or 3, labels int64 N, counted from 0."""

    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """The largest label of both splits, plus 1."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    @property
    def channels(self) -> int:
        """The number of colour channels, 1 or 3."""
        return int(self.x_train.shape[3])


def check_layout(layout: Layout, places: Mapping[str, str]) -> tuple[int, int]:
    """Check shapes and types, and return the numbers of training and of test images.

    Images are uint8, N x H x W or N x H x W x C; labels are integers, N or N x 1. ``places`` says
    for each array where it is, for the message of the DamagedError.
    """
    for split in ("train", "test"):
        x, y = f"x_{split}", f"y_{split}"
        (images, image_type), (labels, label_type) = layout[x], layout[y]
        if image_type != np.uint8:
            raise DamagedError(f"{places[x]} holds {image_type}, not uint8")
        if not (len(images) == 3 or (len(images) == 4 and images[3] in (1, 3))) or 0 in images[1:]:
            raise DamagedError(
                f"{places[x]} has the shape {images}, not N x H x W or N x H x W x C with C 1 or 3"
            )
        if label_type.kind not in "iu":
            raise DamagedError(f"{places[y]} holds {label_type}, not integers")
        if len(labels) != 1 and not (len(labels) == 2 and labels[1] == 1):
            raise DamagedError(f"{places[y]} has the shape {labels}, not N or N x 1")
        if images[0] != labels[0]:
            raise DamagedError(f"{places[y]} has {labels[0]} labels for {images[0]} images")
        if images[0] == 0:
            raise DamagedError(f"{places[x]} is empty")
    total = sum(prod(shape) * kind.itemsize for shape, kind in layout.values())
    if total > psutil.virtual_memory().total:
        raise DamagedError(
            f"{places['x_train']} belongs to a set of {total / 2**30:.0f} GiB, more than this "
            "machine's memory"
        )
    train, test = layout["x_train"][0], layout["x_test"][0]
    if train[1:] != test[1:]:
        raise DamagedError(
            f"{places['x_test']} has images of {_sides(test)}, not {_sides(train)} "
            "like the training images"
        )
    return train[0], test[0]


def checked_arrays(parts: Mapping[str, npt.NDArray[Any]], places: Mapping[str, str]) -> Arrays:
    """Bring the four arrays into the shapes and types of Arrays, or raise DamagedError."""
    check_layout({key: (parts[key].shape, parts[key].dtype) for key in KEYS}, places)
    for key in ("y_train", "y_test"):
        least, most = int(parts[key].min()), int(parts[key].max())
        if least < 0 or most >= MOST_CLASSES:
            raise DamagedError(
                f"{places[key]} has the label {least if least < 0 else most}; labels are class "
                f"numbers from 0 to {MOST_CLASSES - 1}"
            )
    x_train, x_test = (
        np.ascontiguousarray(x if x.ndim == 4 else x[..., None])
        for x in (parts["x_train"], parts["x_test"])
    )
    y_train, y_test = (parts[key].reshape(-1).astype(np.int64) for key in ("y_train", "y_test"))
    return Arrays(x_train, y_train, x_test, y_test)


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[1:]))
