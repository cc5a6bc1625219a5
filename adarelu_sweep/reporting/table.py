"""One table, and how its numbers are written. Every format shows the same text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean, stdev

from adarelu_sweep.components import Scalar


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand to the right."""

    heading: str
    right: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of text under headings, with notes below."""

    key: str
    """Its file's name."""
    title: str
    columns: list[Column]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


ARM = [Column("data set", False), Column("network", False), Column("activation", False)]
"""The columns that say which arm a row is about."""

NOTHING = "-"
"""Stands where there is no number."""


def fixed(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number with so many decimals; ``sign`` shows a plus, too."""
    if value is None or not isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text[1:] if re.fullmatch(r"[-+]0(\.0*)?", text) else text


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction as percent."""
    return fixed(None if fraction is None else 100 * fraction, digits)


def interval(low: float | None, high: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write an interval's ends."""
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return NOTHING
    return f"{fixed(low, digits, sign)} to {fixed(high, digits, sign)}"


def probability(p: float | None) -> str:
    """Write a p-value: three decimals, four below 0.01, and never 0."""
    if p is None or not isfinite(p):
        return NOTHING
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def brief(value: Scalar) -> str:
    """Write a setting; a number with four digits that count."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def of_all(number: int, planned: int) -> str:
    """Write how many there are, and of how many where some are missing."""
    return str(number) if number == planned else f"{number} of {planned}"


def plus_minus(values: Sequence[float], digits: int = 2) -> str:
    """Write a mean and, of several values, their sample deviation in brackets."""
    if not values or not all(map(isfinite, values)):
        return NOTHING
    mean = fixed(fmean(values), digits)
    return f"{mean} ({fixed(stdev(values), digits)})" if len(values) > 1 else mean
