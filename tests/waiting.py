"""Waiting for what other processes and threads are about to do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 120.0  # seconds, on machines that are busy


def wait_until(condition: Callable[[], T], what: str = "", seconds: float = PATIENCE) -> T:
    """Return the first true value of a condition; raise AssertionError where there is none."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in {seconds:g} s it never came about: {what}"
        time.sleep(0.02)
    return value
