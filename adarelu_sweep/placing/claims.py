"""Which study of a home trains on which GPU: a file lock for each, gone with whoever holds it."""

from collections.abc import Iterable
from contextlib import suppress

from filelock import FileLock, Timeout

from adarelu_sweep.files import write_atomically
from adarelu_sweep.home import Home


class Claims:
    """The GPUs that a study holds, until its sweep ends or its process dies.

    Args:
        home: The home whose studies keep out of each other's way.
        study: The name of the study that claims.
    """

    def __init__(self, home: Home, study: str) -> None:
        self._folder = home.claims_folder
        self._study = study
        self._held: list[FileLock] = []

    def take(self, gpus: Iterable[str]) -> dict[str, str]:
        """Claim GPUs by their UUIDs: all of them, or none where another study holds some.

        Returns those that others hold, each with the study's name; empty where the claim succeeded.
        """
        wanted, taken = sorted(set(gpus)), {}  # in one order, so that of two claims one succeeds
        if wanted:
            self._folder.mkdir(parents=True, exist_ok=True)
        for uuid in wanted:
            lock = FileLock(self._folder / f"{uuid}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                taken[uuid] = self._holder(uuid)
            else:
                self._held.append(lock)
        if taken:
            self.release()
            return taken
        for uuid in wanted:
            write_atomically(self._folder / f"{uuid}.study", self._study.encode())
        return {}

    def release(self) -> None:
        """Let go of all that is held."""
        while self._held:
            self._held.pop().release()

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _holder(self, uuid: str) -> str:
        with suppress(OSError, UnicodeDecodeError):
            return (self._folder / f"{uuid}.study").read_text(encoding="utf-8")
        return "another"
