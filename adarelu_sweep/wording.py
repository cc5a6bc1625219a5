"""How numbers of things are written."""


def count(number: int, one: str, several: str | None = None) -> str:
    """Write a number and what it is of; ``several`` where an s does not make the plural."""
    return f"{number} {one if number == 1 else several or one + 's'}"
