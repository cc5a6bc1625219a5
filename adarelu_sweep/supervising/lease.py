"""Who supervises a study: one process at a time."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically

# Seconds. A process's start is known by the wall clock, which may be set meanwhile.
_CLOCK_STEP = 60.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    host: str
    pid: int
    process_started: float
    since: str

    @classmethod
    def this_process(cls) -> "Holder":
        """Describe the process that asks."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def is_here(self) -> bool:
        """Return whether the process is one of this machine."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Return whether that process of this machine still runs."""
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return abs(started - self.process_started) < _CLOCK_STEP


class Lease:
    """The right to write a study's books. The kernel takes it back when its holder dies."""

    def __init__(self, folder: Path, study: str) -> None:
        self._study = study
        self._folder = folder
        self._lock = FileLock(folder / "lease.lock")
        self._file = folder / "lease.json"

    def holder(self) -> Holder | None:
        """Return the living process that supervises the study, if there is one."""
        try:
            holder = Holder(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        alive = holder.is_alive() if holder.is_here() else self._is_taken()
        return holder if alive else None

    def _is_taken(self) -> bool:
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def __enter__(self) -> "Lease":
        """Take the lease; raise UserError, saying who has it, if somebody does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self.holder()
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise UserError(
                f"study {self._study!r} is being run by {who}: wait for it, or stop it first"
            ) from None
        write_atomically(self._file, json.dumps(asdict(Holder.this_process())).encode())
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.unlink(missing_ok=True)
        self._lock.release()
