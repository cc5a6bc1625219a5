"""``--set KEY=VALUE``: change one field of a study file before it is validated."""

import tomllib
from collections.abc import Iterable
from typing import Any

from adarelu_sweep.components import shorten as quoted
from adarelu_sweep.errors import UserError


def apply_overrides(document: dict[str, Any], assignments: Iterable[str]) -> None:
    """Set dotted keys of a TOML document in place.

    A value is read as TOML, else as a bare string, so that ``--set matrix.network=resnet18`` needs
    no quotes. A number in the key counts into an array: ``matrix.activation.0.name``.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        path = key.strip().split(".")
        shown = " ".join(assignment.split())
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        if not equals or not all(path):
            raise UserError(f"--set {shown}: give KEY=VALUE, like training.optimizer.lr=0.01")
        try:
            assignment.encode()
        except UnicodeEncodeError:  # bytes of the command line that are not UTF-8
            raise UserError(f"--set {shown!a}: not a text in UTF-8") from None
        _set(document, path, value_of(text.strip()), shown)


def value_of(text: str) -> Any:
    """Read a value as TOML, else as a bare string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # ValueError: not TOML, or a number of too many digits
        return text
    # A text with line breaks could smuggle in further keys: then it is a string like any other.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _set(document: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    node: Any = document
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(node):
                raise UserError(
                    f"--set {assignment}: {quoted(key)} does not count into a list of {len(node)}"
                )
            index: Any = int(key)
        else:
            index = key
        if last:
            node[index] = value
            return
        child = node[index] if isinstance(node, list) else node.get(index)
        if isinstance(child, str):
            child = {"name": child}  # a component given by its name alone
        elif child is None:
            child = {}
        elif not isinstance(child, dict | list):
            above = ".".join(path[: depth + 1])
            raise UserError(f"--set {assignment}: {above} is {quoted(child)}, which has no fields")
        node[index] = child
        node = child
