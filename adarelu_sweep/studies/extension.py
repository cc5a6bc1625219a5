"""What may be added to a study that was launched, and what would make its trials incomparable."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from adarelu_sweep.components import Component, shorten
from adarelu_sweep.errors import UserError
from adarelu_sweep.studies.reading import read_study, restudy
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.studies.search import Search

_SHOWN = 6
_FREE = {"name", "matrix", "search", "report", "execution"}  # or compared more closely
_ADDED_TO = {"trials", "confirm_seeds"}


def extended(record: StudyRecord, path: Path | None, overrides: Sequence[str]) -> StudyRecord:
    """Return the record of a study that goes on with another study file, or with overrides alone.

    Raises UserError, with what differs, unless every old trial stands beside the new ones as if it
    had been planned with them.
    """
    if path is None:
        study, source = restudy(record.study, overrides), record.source
    else:
        study, source = read_study(path, overrides), path.read_text(encoding="utf-8")
    name = record.study.name
    if study.name != name:
        raise UserError(
            f"this is study {study.name!r}, not {name!r}: if it is meant to be the same, add "
            f"--set name={name}"
        )
    places = [each.execution.checkpoints for each in (record.study, study)]
    if places[0] != places[1]:
        before = f"is {places[0]}" if places[0] else "is not set: they are in the home"
        raise UserError(
            f"execution.checkpoints: that of study {name!r} {before}; leave it so, or its "
            "checkpoints would be lost from sight"
        )
    if differences := list(_differences(record.study, study)):
        more = len(differences) - _SHOWN
        shown = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"study {name!r} cannot go on with this, because its trials and the new "
            f"ones would not be comparable: {shown}: change that back, or launch a new study"
        )
    return record.model_copy(update={"study": study, "source": source})


def _differences(before: Study, after: Study) -> Iterator[str]:
    """Yield, key by key, what keeps new trials from standing beside the old ones."""
    fields = [name for name in Study.model_fields if name not in _FREE]
    for name in fields:
        yield from _compared(name, getattr(before, name), getattr(after, name))
    for name in ("dataset", "network", "activation"):
        key = f"matrix.{name}"
        yield from _gone(key, getattr(before.matrix, name), getattr(after.matrix, name))
    if before.search is None or after.search is None:
        yield from _gone("matrix.seeds", before.matrix.seeds, after.matrix.seeds)
        yield from _compared("search", before.search, after.search)
        return
    # The trials of a search take its seeds in turn.
    yield from _compared("matrix.seeds", before.matrix.seeds, after.matrix.seeds)
    for name in Search.model_fields:
        if name not in _ADDED_TO:
            pair = getattr(before.search, name), getattr(after.search, name)
            yield from _compared(f"search.{name}", *pair)
    if after.search.trials < before.search.trials:
        yield from _compared("search.trials", before.search.trials, after.search.trials)
    yield from _gone("search.confirm_seeds", before.confirm_seeds(), after.confirm_seeds())


def _gone(key: str, before: Iterable[Any], after: Sequence[Any]) -> Iterator[str]:
    missing = [_shown(value) for value in before if value not in after]
    if missing:
        yield f"{key}: without {', '.join(missing)}"


def _compared(key: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    tables = [_table(value) for value in (before, after)]
    other_part = isinstance(before, Component) and tables[0]["name"] != (tables[1] or {}).get(
        "name"
    )
    if None in tables or type(before) is not type(after) or other_part:
        yield f"{key}: {_shown(before)} -> {_shown(after)}"
        return
    one, other = tables
    for name in dict.fromkeys([*one, *other]):
        yield from _compared(f"{key}.{name}", one.get(name), other.get(name))


def _table(value: Any) -> Any:
    """Return the fields of what has some, else None."""
    if isinstance(value, Component):
        return value.flattened()
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else None


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, Component):
        return value.label
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, BaseModel) else shorten(value)
