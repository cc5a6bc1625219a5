"""Holding a sweep at a chosen moment, from outside (``inject/sitecustomize.py`` is the inside)."""

from pathlib import Path

INJECT = Path(__file__).parent / "inject"


class Moments:
    """The moments at which processes are to be held, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """Return what the processes have to find in their environment."""
        return {"PYTHONPATH": str(INJECT), "CHAOS_FOLDER": str(self._folder)}

    def arm(self, moment: str) -> None:
        """Hold the next process that comes to this moment."""
        (self._folder / moment).touch()

    def holder(self, moment: str) -> int | None:
        """Return the process that is held at this moment, if one is."""
        held = next(self._folder.glob(f"{moment}.*"), None)
        return int(held.suffix[1:]) if held else None

    def release(self) -> None:
        """Let every process go on that is held."""
        for held in self._folder.glob("*.*"):
            held.unlink()

    def disarm(self) -> None:
        """Let every process go on, and hold none any more."""
        for file in self._folder.iterdir():
            file.unlink()
