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


def duration(seconds: float) -> str:
    """Write how long something takes, with the two largest units that count."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"
