"""The learning rate of each epoch, as a closed form.

Nothing here has state: the epoch alone decides, so a resumed trial has nothing to restore.
"""

import math
from collections.abc import Callable
from typing import cast

from adarelu_sweep.components import Component
from adarelu_sweep.training.registry import SCHEDULES


def learning_rate(schedule: Component, base: float, epoch: int, epochs: int) -> float:
    """Return the learning rate during an epoch.

    Args:
        schedule: A component of ``SCHEDULES``.
        base: The optimizer's ``lr``.
        epoch: The epoch to be trained, counted from 0.
        epochs: The number of epochs of the whole trial.
    """
    factor = cast(Callable[..., float], SCHEDULES.load(schedule))
    return base * factor(epoch, epochs, **schedule.arguments)


def constant(epoch: int, epochs: int) -> float:
    """Return 1: the learning rate never changes."""
    return 1.0


def step(epoch: int, epochs: int, step_size: int, gamma: float) -> float:
    """Return gamma to the power of the steps done, like ``torch.optim.lr_scheduler.StepLR``."""
    return gamma ** (epoch // step_size)


def cosine(epoch: int, epochs: int) -> float:
    """Return (1 + cos(pi epoch / epochs)) / 2 (Loshchilov and Hutter, 2017, without restarts)."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2
