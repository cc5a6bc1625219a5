"""Delivering to the tracker from a few threads, so that training never waits for it.

What is to be delivered is a state, not a stream: the newest snapshot of a trial replaces the one
before, and its metrics are read from its history. So those that run may wait for their turn
(``pacing``) without loss. A delivery that fails is repeated; what is not delivered in the end lies
in the trial's folder, and the next resume delivers it.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Lock, Thread
from typing import Protocol

from adarelu_sweep.secrets import concealed, in_one_line
from adarelu_sweep.tracking.pacing import Line
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.tracking.study_report import StudyReport

_RETRY_SECONDS = 2.0
_LONGEST = 8  # times as long, after many failures
_THE_STUDY = ""  # among the trials' keys, of which none is empty
_ENDING_SECONDS = 240.0


class Tracker(Protocol):
    """Where records are delivered to. Every method may be repeated at will."""

    def begin_study(self) -> None:
        """Say that the study runs."""

    def deliver(self, snapshot: TrialSnapshot) -> None:
        """Bring a trial's record up to date."""

    def log_report(self, report: StudyReport) -> None:
        """Keep the report."""

    def register_best(self, report: StudyReport) -> str | None:
        """Register the best trial's model; return, in one line, why it is not, or None."""

    def settle(self) -> None:
        """Undo what came late; only once nothing is being delivered any more."""

    def end_study(self, status: RunStatus) -> None:
        """Say how the study ended."""


@dataclass(frozen=True, eq=False)
class _End:
    """How a study is to end in the tracker's records."""

    status: RunStatus
    report: StudyReport | None
    delivered: bool
    """Whether its trials are."""
    tries_until: float
    arrived: Event = field(default_factory=Event)


class Delivery:
    """Brings a tracker up to date in the background.

    Args:
        connect: Makes the tracker; called in the background, again until it succeeds.
        on_trouble: Told in one line what cannot be delivered: once for every outage, which lasts
            until all that failed has arrived.
        threads: How many trials are delivered at a time.
    """

    def __init__(
        self,
        connect: Callable[[], Tracker],
        on_trouble: Callable[[str], None],
        threads: int = 2,
    ) -> None:
        self._connect = connect
        self._on_trouble = on_trouble
        self._changed = Condition()
        self._line = Line()
        self._last_success = time.monotonic()
        self._failing: set[str] = set()
        self._finishing = False
        self._closed = False
        self._tracker: Tracker | None = None
        self._end: _End | None = None
        self._telling_the_end = Lock()
        self._threads = [
            Thread(target=self._work, args=(index,), name=f"delivery-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def post(self, snapshot: TrialSnapshot, slot: int | None = None, at_once: bool = True) -> None:
        """Ask for a trial to be brought to a state; replaces what was asked for it before.

        ``slot`` is where it runs, unless it has ended: what is not to be delivered ``at_once``
        waits until the slot's trials may have their next call (``pacing``).
        """
        with self._changed:
            self._line.put(snapshot, slot, at_once)
            self._changed.notify_all()

    def finish(self, status: RunStatus, report: StudyReport | None, patience: float) -> bool:
        """Deliver what is left, end the study, and return whether all of it arrived.

        Gives up once nothing was delivered for ``patience`` seconds; where the study was killed,
        after so many in all. Ending a study that was not killed may take longer: there is a report
        to send and a model to register.

        Called again, by who does not want to wait for that, it ends the study anew: what is still
        under way of the end before says no longer how the study ended.
        """
        killed = status == "KILLED"
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
            began = self._last_success = time.monotonic()
            while self._line or self._tracker is None:
                since = began if killed else self._last_success
                left = since + patience - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            delivered = not self._line
            tracker = self._tracker
            self._closed = True
            self._changed.notify_all()
        if tracker is None:
            return False
        # A server that takes no trial gets one chance at the end.
        tries_until = time.monotonic() + (patience if delivered and not killed else 0)
        end = self._end = _End(status, report, delivered, tries_until)
        ending = Thread(target=self._conclude, args=(tracker, end), name="end", daemon=True)
        ending.start()
        ending.join(patience if killed else patience + _ENDING_SECONDS)
        return end.arrived.is_set() and delivered

    def _conclude(self, tracker: Tracker, end: _End) -> None:
        while self._end is end:
            try:
                trouble = self._record(tracker, end)
            except Exception as error:
                self._failed(_THE_STUDY, error)
                if time.monotonic() >= end.tries_until:
                    return
                time.sleep(_RETRY_SECONDS)
            else:
                end.arrived.set()
                if trouble is not None:
                    self._on_trouble(concealed(trouble))
                return

    def _record(self, tracker: Tracker, end: _End) -> str | None:
        """Record how the study ended; return what went wrong though that is recorded, or None."""
        killed = end.status == "KILLED"
        if killed:  # little time is left; what follows comes again with the resume
            self._tell(tracker, end)
        trouble = None
        if end.report is not None:
            tracker.log_report(end.report)
            if end.status == "FINISHED":
                trouble = tracker.register_best(end.report)
        if not killed:
            if end.delivered:  # else a thread may still be at a trial, and the resume settles it
                tracker.settle()
            self._tell(tracker, end)
        return trouble

    def _tell(self, tracker: Tracker, end: _End) -> None:
        with self._telling_the_end:  # the newest end is told last
            if self._end is end:
                tracker.end_study(end.status)

    def _work(self, index: int) -> None:
        if index == 0 and not self._establish():
            return
        failures = 0
        while (snapshot := self._take()) is not None:
            delivered = self._deliver(snapshot)
            failures = 0 if delivered else failures + 1
            with self._changed:
                self._line.put_down(snapshot, delivered)
                self._changed.notify_all()
                if not delivered:
                    self._pause(failures)

    def _establish(self) -> bool:
        """Connect, however often it takes; return whether that succeeded before the end."""
        failures = 0
        while True:
            try:
                tracker = self._connect()
                tracker.begin_study()
            except Exception as error:
                self._failed(_THE_STUDY, error)
            else:
                with self._changed:
                    self._tracker = tracker
                    self._succeeded(_THE_STUDY)
                return True
            failures += 1
            with self._changed:
                if self._pause(failures):
                    return False

    def _take(self) -> TrialSnapshot | None:
        """Wait for a trial that is due; None at the end, before which all are."""
        with self._changed:
            while not self._closed:
                wait = None
                if self._tracker is not None:
                    if (snapshot := self._line.take(hurry=self._finishing)) is not None:
                        return snapshot
                    wait = self._line.seconds()
                self._changed.wait(wait)
        return None

    def _deliver(self, snapshot: TrialSnapshot) -> bool:
        assert self._tracker is not None
        try:
            self._tracker.deliver(snapshot)
        except Exception as error:
            self._failed(snapshot.key, error)
            # The server may be gone for good, or up again elsewhere.
            with suppress(Exception):
                self._tracker = self._connect()
            return False
        with self._changed:
            self._succeeded(snapshot.key)
        return True

    def _pause(self, failures: int) -> bool:
        """Wait before the next attempt; return whether the end came meanwhile.

        After many failures in a row the wait is longer, until the end is near.
        """
        near = self._finishing
        longer = 1 if near else min(2 ** (failures - 1), _LONGEST)
        return (
            self._changed.wait_for(
                lambda: self._closed or (self._finishing and not near), _RETRY_SECONDS * longer
            )
            and self._closed
        )

    def _succeeded(self, key: str) -> None:
        self._last_success = time.monotonic()
        self._failing.discard(key)
        self._changed.notify_all()

    def _failed(self, key: str, error: Exception) -> None:
        """Tell the user once, not at every attempt and not for every trial."""
        with self._changed:
            known = bool(self._failing)
            self._failing.add(key)
        if not known:
            self._on_trouble(
                f"records cannot be delivered ({in_one_line(error)}); training goes on, and they "
                "wait in the home"
            )
