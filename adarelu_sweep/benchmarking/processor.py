"""What processor this machine has, as far as the system tells it."""

import platform
from pathlib import Path

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Linux's names of what multiplies in bf16: two of x86, one of ARM."""


def processor_name() -> str:
    """Return the processor's name."""
    names = _values(_told(), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def has_bf16() -> bool | None:
    """Return whether the processor has instructions for bf16; None where nothing says so."""
    return bf16_in(_told())


def bf16_in(told: str) -> bool | None:
    """Return whether all processors of a ``/proc/cpuinfo`` have instructions for bf16.

    None where it lists no features under a name that is known here.
    """
    features = _values(told, "flags", "Features")
    return all(_BF16.intersection(each.split()) for each in features) if features else None


def _told() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


def _values(told: str, *keys: str) -> list[str]:
    pairs = (line.partition(":") for line in told.splitlines())
    return [value.strip() for key, _, value in pairs if key.strip() in keys]
