"""A study and whoever supervises it at the moment: launched once, resumed as often as need be."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from adarelu_sweep.home import Home
from adarelu_sweep.recording.ledger import Ledger
from tests.chaos import processes
from tests.sweeps import Command

ENDING = 60.0  # seconds, at most, for a sweep that was told to stop: ten, on a busy machine
_WORKERS_GONE = 20.0
_WHOLE = 300.0
_RESUMES = 3
_UNDELIVERED = "records not delivered"
_SHOWN = 40  # last lines of the log in an error


class SupervisedStudy:
    """Every method raises AssertionError where the sweep does not behave.

    Args:
        command: The command line with the home.
        launch: The arguments of the launch, but for the name.
        name: The study's name. Its log, over all supervisors, lies beside the home.
    """

    def __init__(self, command: Command, launch: Sequence[str | Path], name: str) -> None:
        self.name = name
        self.home = command.home
        self.supervisors = 0
        """How many there were so far."""
        self.slowest = 0.0
        """Seconds from a signal to the end of the supervisor that it stopped, the most of all."""
        self._command = command
        self._launch = ("launch", *launch, "--name", name)
        self._log = command.home.parent / f"{name}.log"
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._supervising.pid

    @property
    def _supervising(self) -> "subprocess.Popen[str]":
        assert self._supervisor is not None
        return self._supervisor

    def is_supervised(self) -> bool:
        """Return whether a supervisor was started, and its end not seen yet."""
        return self._supervisor is not None

    def has_ended(self) -> bool:
        """Return whether the supervisor is gone."""
        return self._supervising.poll() is not None

    def exists(self) -> bool:
        """Return whether the study was recorded, so that it can be resumed."""
        path = Home(self.home).optuna_db
        if not path.exists():
            return False
        ledger = Ledger(path)
        try:
            return self.name in ledger.names()
        finally:
            ledger.close()

    def start(self) -> None:
        """Launch the study, or resume it."""
        arguments = ("resume", self.name) if self.exists() else self._launch
        with self._log.open("a") as log:
            log.write(f"--- {' '.join(map(str, arguments))}\n")
            log.flush()
            self._supervisor = self._command.start(*arguments, stdout=log, stderr=log)
        self.supervisors += 1

    def expect(self, codes: set[int], seconds: float = _WHOLE) -> int:
        """Wait for the supervisor to end with one of these codes, and return with which."""
        try:
            code = self._supervising.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the sweep has not ended within {seconds:g} s") from None
        self._supervisor = None
        assert code in codes, f"the sweep ended with {code}, not with one of {codes}"
        return code

    def stopped(self, codes: set[int], since: float, workers: list[psutil.Process]) -> int:
        """Wait for the end of a supervisor that was told to stop, and for that of its workers."""
        code = self.expect(codes, ENDING)
        self.slowest = max(self.slowest, time.monotonic() - since)
        self.gone(workers, _WORKERS_GONE)
        return code

    def gone(self, victims: list[psutil.Process], seconds: float = ENDING) -> None:
        """Wait for the end of processes."""
        _, alive = psutil.wait_procs(victims, timeout=seconds)
        assert not alive, f"still alive after {seconds:g} s: {alive}"

    def finish(self) -> None:
        """Let the study come to its end, undisturbed from here on.

        It is resumed again where its records were not delivered: on a busy machine others may take
        the ports that its server was to have.
        """
        if self._supervisor is not None:
            self.expect({0})
        for _ in range(_RESUMES):
            self.start()
            self.expect({0})
            if _UNDELIVERED not in self._said_last().lower():
                return
        raise AssertionError(f"{self.name}: its records are not delivered\n{self.said()}")

    def close(self) -> None:
        """End what is left of a failed study."""
        if self._supervisor is not None:
            processes.send(processes.everything(self.pid, self.home), signal.SIGKILL)
            self._supervisor.wait()
            self._supervisor = None

    def _said_last(self) -> str:
        return self._log.read_text().rpartition("\n--- ")[2]

    def said(self) -> str:
        """Return the end of what the supervisors have said."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return "".join(lines[-_SHOWN:])
