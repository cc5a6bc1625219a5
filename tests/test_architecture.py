"""The rooms of the package, from the roof to the ground: each imports from those below it alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import adarelu_sweep

PACKAGE = Path(adarelu_sweep.__file__).parent
FLOORS = (
    ("cli",),
    ("diagnosing",),
    ("operating",),
    ("reporting",),
    ("supervising", "migrating"),
    ("placing", "recording", "tracking"),
    ("benchmarking",),
    ("launching", "studies"),
    ("training",),
    ("networks", "datasets"),
    ("activations", "storing"),
)


def imported_rooms(room: str) -> Iterator[tuple[Path, str]]:
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                top, _, rest = name.partition(".")
                part = rest.partition(".")[0]
                if top == PACKAGE.name and part != room and (PACKAGE / part).is_dir() and part:
                    yield path, part


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize("level", range(len(FLOORS)), ids=["+".join(floor) for floor in FLOORS])
def test_imports_run_downward(level: int) -> None:
    below = {room for floor in FLOORS[level + 1 :] for room in floor}
    upward = [
        f"{path.relative_to(PACKAGE)} imports {part}"
        for room in FLOORS[level]
        for path, part in imported_rooms(room)
        if part not in below
    ]
    assert not upward, "\n".join(upward)
