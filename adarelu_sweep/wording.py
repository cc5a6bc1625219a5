"""How numbers of things, and sizes, are written."""


def count(number: int, one: str, several: str | None = None) -> str:
    """Write a number and what it is of; ``several`` where an s does not make the plural."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def size(number: float) -> str:
    """Write a number of bytes with its unit."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1000 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.3g} {units[0]}"
