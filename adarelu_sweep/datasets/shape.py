"""What a network has to take and to give, known of a data set without reading its images."""

from dataclasses import dataclass
from pathlib import Path

from adarelu_sweep.datasets import npz
from adarelu_sweep.datasets.catalog import BUILT_IN, Form, check, damage_explained

LEAST_SIDE = 32  # five poolings by 2 need it


@dataclass(frozen=True, order=True)
class Shape:
    """The images as they are trained on, padded where they are small; and the classes."""

    height: int
    width: int
    channels: int
    classes: int


def shape_of(name: str, data_dir: Path) -> Shape:
    """Return the shape of a data set; a built-in one need not be there.

    Raises UserError as ``check`` does, and where a file turns out to be damaged.
    """
    status = check(name, data_dir)
    if status.form is not Form.NPZ or status.place is None:
        known = BUILT_IN[name]
        return Shape(LEAST_SIDE, LEAST_SIDE, known.channels, known.num_classes)
    with damage_explained(name, data_dir):
        height, width, channels, classes = npz.form(status.place)
    return Shape(max(height, LEAST_SIDE), max(width, LEAST_SIDE), channels, classes)
