"""A study that is disturbed at chosen moments."""

import signal
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.chaos import processes
from tests.chaos.cases import Case
from tests.chaos.moments import Moments
from tests.chaos.supervised import SupervisedStudy
from tests.waiting import wait_until


class Disturbance:
    """Brings a study to one moment after the other and sends the signals."""

    def __init__(self, study: SupervisedStudy, moments: Moments) -> None:
        self._study = study
        self._moments = moments

    def suffer(self, cases: Sequence[Case]) -> None:
        """Go through cases; raise AssertionError where the sweep does not behave."""
        self._moments.disarm()
        try:
            for case, following in zip(cases, [*cases[1:], None], strict=True):
                try:
                    self._suffer(case, following)
                except AssertionError as error:
                    said = self._study.said()
                    raise AssertionError(f"{self._study.name}, {case}: {error}\n{said}") from error
        finally:
            self._moments.disarm()

    def _suffer(self, case: Case, following: Case | None) -> None:
        self._hold(case)
        victims = wait_until(lambda: self._victims(case), f"a {case.target} to signal")
        passes_on = case.target == "server"  # training goes on, to the next moment at once
        if following is not None and passes_on:
            self._arm(following)
        workers = processes.workers(self._study.pid)
        began = time.monotonic()
        processes.send(victims, case.signal)
        self._moments.release()
        if not case.ends_the_sweep:
            self._study.gone(victims)
            if following is not None and not passes_on:
                self._arm(following)  # for the next worker; the last one may have passed it
            return
        self._study.stopped(case.exit_codes, began, workers)
        if case.signal is not signal.SIGKILL:
            left = running_trials(self._study.home, self._study.name)
            assert not left, f"{left} trials are left RUNNING"

    def _hold(self, case: Case) -> None:
        """Bring the sweep to the moment, and hold it there."""
        if not self._study.is_supervised():
            self._arm(case)
            self._study.start()
        self._reach(_first_hold(case))
        if case.moment == "artifacts":  # while the next trial waits at its start
            self._moments.arm("artifacts")
            self._moments.arm("start")
            self._moments.release()
            self._reach("artifacts")
            self._reach("start")

    def _arm(self, case: Case) -> None:
        self._moments.arm(_first_hold(case))

    def _reach(self, moment: str) -> None:
        def held() -> bool:
            assert not self._study.has_ended(), f"the sweep ended and was never at {moment!r}"
            return self._moments.holder(moment) is not None

        wait_until(held, f"the moment {moment!r}")

    def _victims(self, case: Case) -> list[psutil.Process]:
        pid, home = self._study.pid, self._study.home
        if case.target == "supervisor":
            return [psutil.Process(pid)]
        if case.target == "server":
            return processes.server(home)
        if case.target == "everything":
            return processes.everything(pid, home) if processes.server(home) else []
        if case.moment == "report":
            holder = self._moments.holder("registration")
            assert holder is not None
            return [psutil.Process(holder)]
        return processes.workers(pid)


def _first_hold(case: Case) -> str:
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
