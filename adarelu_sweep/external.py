"""Components that are not built in: ``package.module:Name``, or a name that a package offers.

Finding one imports nothing of it, so that study files are read without torch.
"""

import re
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from math import isfinite
from reprlib import repr as repr_short

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def find(kind: str, group: str, name: str) -> EntryPoint | None:
    """Return where a component's code is, or None if nothing of that name is offered.

    Raises ValueError with one clear line for a reference that is misspelt or whose package is not
    there, and for a name that several packages offer.
    """
    if ":" in name:
        return _reference(kind, group, name)
    offers = list(entry_points(group=group, name=name))
    if len({offer.value for offer in offers}) > 1:
        choices = " or ".join(sorted({offer.value for offer in offers}))
        raise ValueError(f"several packages offer the {kind} {name!r}: write {choices} instead")
    return offers[0] if offers else None


def offered(group: str) -> list[str]:
    """Return the names that installed packages offer in an entry point group."""
    return sorted(entry_points(group=group).names)


def checked_argument(component: str, name: str, value: object) -> bool | int | float | str:
    """Return an argument that can be passed by keyword and kept; raise ValueError otherwise."""
    if not name.isidentifier():
        raise ValueError(f"{component}: {name!r} cannot be the name of an argument")
    if not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{component}.{name} = {repr_short(value)}: give a number, a string, true or false"
        )
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{component}.{name} = {value}: give a finite number")
    return value


def _reference(kind: str, group: str, name: str) -> EntryPoint:
    if not _REFERENCE.fullmatch(name):
        raise ValueError(f"{name!r} is no {kind}: write it like 'package.module:Name'")
    package = name.partition(":")[0].partition(".")[0]
    try:
        found = find_spec(package)
    except ValueError:  # a module without a spec, __main__ for one
        found = None
    if found is None:
        raise ValueError(
            f"{name}: there is no package {package!r}: install it, or run from the folder that "
            "holds it"
        )
    return EntryPoint(name, name, group)
