"""A study that is launched, disturbed at chosen moments, and resumed."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.chaos import processes
from tests.chaos.cases import Case, Moment
from tests.chaos.moments import Moments, wait_for
from tests.sweeps import Command

_ENDING = 60.0  # seconds, at most, for a sweep that was told to stop: ten, on a busy machine
_WORKERS_GONE = 20.0
_WHOLE = 240.0


class DisturbedStudy:
    """One study, and whoever supervises it at the moment.

    Every method raises AssertionError where the sweep does not behave.
    """

    def __init__(
        self, command: Command, moments: Moments, launch: Sequence[str | Path], name: str
    ) -> None:
        """Take the arguments of the launch, but for the name. Nothing is started yet."""
        self._command = command
        self._moments = moments
        self._launch = ("launch", *launch, "--name", name)
        self.name = name
        self._log = command.home.parent / f"{name}.log"
        self._supervisor: subprocess.Popen[str] | None = None
        self.supervisors = 0
        self.slowest = 0.0
        """Seconds from a signal to the end of its supervisor, the most of all."""

    def suffer(self, cases: Sequence[Case]) -> None:
        """Go through cases one after the other, as far as the study lasts."""
        self._moments.disarm()
        for case, following in zip(cases, [*cases[1:], None], strict=True):
            try:
                self._suffer(case, following)
            except AssertionError as error:
                raise AssertionError(f"{self.name}, {case}: {error}\n{self._said()}") from error

    def finish(self) -> None:
        """Let the study come to its end, undisturbed from here on."""
        self._moments.disarm()
        if self._supervisor is not None:
            self._expect({0}, _WHOLE)
        self._start()  # delivers what was left, if anything was
        self._expect({0}, _WHOLE)

    def close(self) -> None:
        """End what is left of a failed study."""
        if self._supervisor is not None:
            processes.send(
                processes.everything(self._supervisor.pid, self._command.home), signal.SIGKILL
            )
            self._supervisor.wait()
        self._moments.disarm()

    # One case

    def _suffer(self, case: Case, following: Case | None) -> None:
        self._hold(case)
        victims = wait_for(lambda: self._victims(case), f"a {case.target} to signal")
        if following is not None and following.moment != "report":
            self._moments.arm(_first_hold(following))  # before it can have passed
        began = time.monotonic()
        workers = processes.workers(self._pid)
        processes.send(victims, case.signal)
        self._moments.release()
        if not case.ends_the_sweep:
            self._gone(victims, _ENDING)
            return
        self._expect(case.exit_codes, _ENDING)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self._gone(workers, _WORKERS_GONE)
        if case.signal is not signal.SIGKILL:
            assert running_trials(self._command.home, self.name) == 0, "trials are left RUNNING"

    def _hold(self, case: Case) -> None:
        """Bring the sweep to the moment, and hold it there."""
        self._moments.arm(_first_hold(case))
        if self._supervisor is None:
            self._start()
        if case.moment != "artifacts":
            self._reached(_first_hold(case))
            return
        self._reached("end")  # so that the next trial waits at its start meanwhile
        self._moments.arm("artifacts")
        self._moments.arm("start")
        self._moments.release()
        self._reached("artifacts")
        self._reached("start")

    def _reached(self, moment: str) -> None:
        def held() -> bool:
            code = self._supervising.poll()
            assert code is None, f"it ended with {code} and was never at {moment!r}"
            return self._moments.holder(moment) is not None

        wait_for(held, f"the moment {moment!r}")

    def _victims(self, case: Case) -> list[psutil.Process]:
        home = self._command.home
        if case.target == "supervisor":
            return [psutil.Process(self._pid)]
        if case.target == "server":
            return processes.server(home)
        if case.target == "everything":
            return processes.everything(self._pid, home) if processes.server(home) else []
        if case.moment == "report":
            holder = self._moments.holder("registration")
            assert holder is not None
            return [psutil.Process(holder)]
        return processes.workers(self._pid)

    # Processes

    @property
    def _supervising(self) -> "subprocess.Popen[str]":
        assert self._supervisor is not None
        return self._supervisor

    @property
    def _pid(self) -> int:
        return self._supervising.pid

    def _start(self) -> None:
        arguments = self._launch if self.supervisors == 0 else ("resume", self.name)
        with self._log.open("a") as log:
            log.write(f"--- {' '.join(map(str, arguments))}\n")
            log.flush()
            self._supervisor = self._command.start(*arguments, stdout=log, stderr=log)
        self.supervisors += 1

    def _expect(self, codes: set[int], seconds: float) -> None:
        try:
            code = self._supervising.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the sweep has not ended within {seconds:g} s") from None
        self._supervisor = None
        assert code in codes, f"the sweep ended with {code}, not with one of {codes}"

    def _gone(self, victims: list[psutil.Process], seconds: float) -> None:
        _, alive = psutil.wait_procs(victims, timeout=seconds)
        assert not alive, f"still alive after {seconds:g} s: {alive}"

    def _said(self) -> str:
        return "".join(self._log.read_text().splitlines(keepends=True)[-40:])


def _first_hold(case: Case) -> Moment | str:
    if case.moment == "artifacts":
        return "end"
    if case.moment == "report" and case.target == "worker":
        return "registration"
    return case.moment


def running_trials(home: Path, name: str) -> int:
    """Return how many trials of a study Optuna's file calls RUNNING."""
    query = """
        select count(*) from trials join studies using (study_id)
        where state = 'RUNNING' and (study_name = ? or study_name like ? || '/%')
    """
    with sqlite3.connect(f"file:{home}/optuna.db?mode=ro", uri=True) as connection:
        return int(connection.execute(query, [name, name]).fetchone()[0])
