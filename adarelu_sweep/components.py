"""Named parts of a trial (activation, network, optimizer, schedule) and their registries.

A registry says where a part's code is and what arguments it takes, without importing it, so that
study files are validated without torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

Scalar = bool | int | float | str


class Component(BaseModel):
    """A named part with all its arguments resolved, defaults included.

    ``label`` is what people read: the name, and in brackets the arguments that are not the default.
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

    ``resolve`` raises ValueError with one clear line; pydantic turns it into a located message.
    """

    def __init__(self, kind: str, entries: Iterable[Entry]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the known names, in the order of the registry."""
        return list(self._entries)

    def entry(self, name: str) -> Entry:
        """Return the entry of that name, or raise ValueError with the nearest known one."""
        try:
            return self._entries[name]
        except KeyError:
            raise ValueError(unknown(self.kind, name, self._entries)) from None

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
        entry = self.entry(table["name"])
        arguments = {name: argument.default for name, argument in entry.arguments.items()}
        for name, value in table.items():
            if name == "name":
                continue
            if name not in entry.arguments:
                raise ValueError(unknown(f"argument of {entry.name}", name, entry.arguments))
            arguments[name] = _checked(entry, name, value)
        changed = [
            f"{name}={_shown(value)}"
            for name, value in arguments.items()
            if value != entry.arguments[name].default
        ]
        label = f"{entry.name}({','.join(changed)})" if changed else entry.name
        return Component(name=entry.name, arguments=arguments, label=label)

    def load(self, component: Component) -> Any:
        """Import what the component's name stands for."""
        module, _, attribute = self.entry(component.name).target.partition(":")
        return getattr(import_module(module), attribute)


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


def _checked(entry: Entry, name: str, value: Any) -> Scalar:
    try:
        checked: Scalar = _adapter(entry.arguments[name].type).validate_python(value, strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        said = f"{message[0].lower()}{message[1:]}"
        raise ValueError(f"{entry.name}.{name} = {shorten(value)}: {said}") from None
    return checked


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
