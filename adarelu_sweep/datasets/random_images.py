"""Images of noise, to try or to time a network on where the data itself says nothing."""

import numpy as np
import numpy.typing as npt

from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.shape import Shape


def random_arrays(shape: Shape, train: int, test: int) -> Arrays:
    """Return so many images of each split, the same ones every time; the last class is there."""
    draw = np.random.default_rng(0)

    def images(number: int) -> npt.NDArray[np.uint8]:
        size = (number, shape.height, shape.width, shape.channels)
        return draw.integers(0, 256, size, dtype=np.uint8)

    def labels(number: int) -> npt.NDArray[np.int64]:
        numbers = np.arange(number) % shape.classes
        numbers[-1] = shape.classes - 1
        return numbers

    return Arrays(images(train), labels(train), images(test), labels(test))
