"""Who supervises a study: one process at a time."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter

from adarelu_sweep.errors import UserError
from adarelu_sweep.files import write_atomically
from adarelu_sweep.recording.patience import no_room_explained, passing_reason

# Seconds. A process's start is known by the wall clock, which may be set meanwhile.
_CLOCK_STEP = 60.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process_started: Annotated[float, Field(gt=0, lt=1e11)]
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
        return self.process() is not None

    def process(self) -> psutil.Process | None:
        """Return that process of this machine, None if it has ended; its id may be another's now.

        It has ended, too, if nobody has taken note of its end yet.
        """
        try:
            process = psutil.Process(self.pid)
            started = process.create_time()
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return None if ended or abs(started - self.process_started) >= _CLOCK_STEP else process

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The right to write a study's books. The kernel takes it back when its holder dies.

    Args:
        folder: The study's folder.
        study: Its name.
        nameless: Take it even where there is no room to say who has it.
    """

    def __init__(self, folder: Path, study: str, nameless: bool = False) -> None:
        self._nameless = nameless
        self._study = study
        self._folder = folder
        self._lock = FileLock(folder / "lease.lock")
        self._file = folder / "lease.json"

    def holder(self) -> Holder | None:
        """Return the living process that supervises the study, if there is one."""
        try:
            holder = TypeAdapter(Holder).validate_json(self._file.read_bytes())
        except (OSError, ValueError):
            return None
        alive = holder.is_alive() if holder.is_here() else self.is_taken()
        return holder if alive else None

    def is_taken(self) -> bool:
        """Return whether a process holds the lease now, whoever it is.

        Asking takes it for a moment, in which a launch would be refused: not for asking often.
        """
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def refuse_holder(self) -> None:
        """Raise UserError, saying who has the lease, if somebody does."""
        if holder := self.holder():
            raise self._is_run_by(holder)

    def __enter__(self) -> "Lease":
        """Take the lease; raise UserError, saying who has it, if somebody does."""
        with no_room_explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise self._is_run_by(self.holder()) from None
            try:
                write_atomically(self._file, json.dumps(asdict(Holder.this_process())).encode())
            except BaseException as error:
                if not (self._nameless and passing_reason(error)):
                    self._lock.release()
                    raise
        return self

    def abolish(self) -> None:
        """Remove the lease's files and, if nothing else is in it, the folder.

        Only its holder may. Who has opened the lock's file by now does not get it: the file lock
        looks whether it is still there.
        """
        self._file.unlink(missing_ok=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()

    def __exit__(self, *_error: object) -> None:
        self._file.unlink(missing_ok=True)
        self._lock.release()

    def _is_run_by(self, holder: Holder | None) -> UserError:
        return UserError(
            f"study {self._study!r} is being run by {holder or 'another process'}: "
            f"wait for it, or stop it first with 'adarelu-sweep stop {self._study}'"
        )
