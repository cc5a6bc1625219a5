"""What a check has found."""

from dataclasses import dataclass
from enum import StrEnum

from adarelu_sweep.secrets import concealed


class State(StrEnum):
    """What a finding means for a sweep."""

    OK = "ok"
    ABSENT = "absent"
    """Not there, and not needed, or made when it is."""
    FAILED = "failed"
    """Asked for, and not usable."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str
    """What it belongs to, in a word."""
    name: str
    state: State
    found: str
    advice: str = ""
    """What to do, where there is something to do."""

    def as_dict(self) -> dict[str, str]:
        """Return what ``doctor --json`` prints of it; no password is in it."""
        return {
            "area": self.area,
            "name": self.name,
            "state": self.state.value,
            "found": _shown(self.found),
            "advice": _shown(self.advice),
        }

    def __str__(self) -> str:
        """Return what ``doctor`` prints of it: one line without passwords."""
        what = _shown(f"{self.found}: {self.advice}" if self.advice else self.found)
        return f"{self.state:<7} {self.area:<9} {self.name:<15} {what}"


def _shown(text: str) -> str:
    return concealed(" ".join(text.split()))
