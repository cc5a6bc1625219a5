"""Named parts of a trial (activation, network, optimizer, schedule) and their registries.

A registry says where a part's code is and what arguments it takes, without importing it, so that
study files are validated without torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from adarelu_sweep import external

Scalar = bool | int | float | str


class Component(BaseModel):
    """A named part with all its arguments resolved, defaults included.

    ``label`` is what people read: the name, and in brackets the arguments that are not the default
    (of a component that is not built in: those that were given).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: dict[str, Scalar] = {}
    label: str

    def flattened(self) -> dict[str, Scalar]:
        """Return ``{"name": …, ARGUMENT: …}``, one level deep."""
        return {"name": self.name, **self.arguments}


@dataclass(frozen=True)
class Argument:
    """One argument of an entry: its pydantic type, which carries the bounds, and its default."""

    type: Any
    default: Scalar


@dataclass(frozen=True)
class Entry:
    """What a registry knows of one name."""

    name: str
    target: str  # "package.module:attribute", imported only by load()
    summary: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)


class Registry:
    """The known names of one kind of component.

    With an entry point ``group``, components need not be built in: ``package.module:Name`` and the
    names that installed packages offer in the group are known too. A built-in name comes first.

    ``resolve`` raises ValueError with one clear line; pydantic turns it into a located message.
    """

    def __init__(self, kind: str, entries: Iterable[Entry], group: str | None = None) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}
        self._group = group

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the built-in names, in the order of the registry."""
        return list(self._entries)

    def resolve(self, given: Any) -> Component:
        """Turn a name, or a table ``{name = …, ARGUMENT = …}``, into a component."""
        if isinstance(given, Component):
            return given
        table = {"name": given} if isinstance(given, str) else given
        example = f'{{ name = "{self.names()[0]}" }}'
        if isinstance(table, Mapping) and "name" not in table:
            raise ValueError(f"which {self.kind} is not said: give its name, as in {example}")
        if not isinstance(table, Mapping) or not isinstance(table["name"], str):
            raise ValueError(f"{shorten(given)} is not a name or a table like {example}")
        name = table["name"]
        arguments = {key: value for key, value in table.items() if key != "name"}
        if name in self._entries:
            return _built_in(self._entries[name], arguments)
        self._find(name)
        checked = {key: external.checked_argument(name, key, arguments[key]) for key in arguments}
        in_order = dict(sorted(checked.items()))  # the same arguments are the same component
        return Component(name=name, arguments=in_order, label=_label(name, in_order))

    def load(self, component: Component) -> Any:
        """Import what the component's name stands for."""
        if component.name in self._entries:
            target = self._entries[component.name].target
            return EntryPoint(component.name, target, self._group or "").load()
        return self._find(component.name).load()

    def origin(self, component: Component) -> str | None:
        """Return where the code of a component is that is not built in, or None for one that is.

        Such as ``my_package.parts:Swish``, with the distribution where an installed one offers it.
        """
        if component.name in self._entries:
            return None
        found = self._find(component.name)
        return (
            f"{found.value}, of {found.dist.name} {found.dist.version}"
            if found.dist
            else found.value
        )

    def _find(self, name: str) -> EntryPoint:
        """Return where a component is that is not built in; ValueError if it is nowhere."""
        found = external.find(self.kind, self._group, name) if self._group else None
        if found is None:
            offered = external.offered(self._group) if self._group else []
            raise ValueError(unknown(self.kind, name, [*self._entries, *offered]))
        return found


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is not known, and which known one is nearest."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = f"known: {', '.join(known)}" if known else "it takes none"
    return f"unknown {kind} {shorten(name)} ({hint})"


def shorten(value: Any) -> str:
    """Return what a user gave, as Python writes it, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_, config=ConfigDict(allow_inf_nan=False))


def _built_in(entry: Entry, given: Mapping[str, Any]) -> Component:
    arguments = {name: argument.default for name, argument in entry.arguments.items()}
    for name, value in given.items():
        if name not in entry.arguments:
            raise ValueError(unknown(f"argument of {entry.name}", name, entry.arguments))
        arguments[name] = _checked(entry, name, value)
    changed = {
        name: value for name, value in arguments.items() if value != entry.arguments[name].default
    }
    return Component(name=entry.name, arguments=arguments, label=_label(entry.name, changed))


def _checked(entry: Entry, name: str, value: Any) -> Scalar:
    try:
        checked: Scalar = _adapter(entry.arguments[name].type).validate_python(value, strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        said = f"{message[0].lower()}{message[1:]}"
        raise ValueError(f"{entry.name}.{name} = {shorten(value)}: {said}") from None
    return checked


def _label(name: str, arguments: Mapping[str, Scalar]) -> str:
    shown = ",".join(f"{key}={_shown(value)}" for key, value in arguments.items())
    return f"{name}({shown})" if shown else name


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
