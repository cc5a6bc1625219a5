"""Trials that run are delivered every two seconds for each slot; beginnings and ends at once."""

import time
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from adarelu_sweep.launching.messages import EpochDone, Finished, Task
from adarelu_sweep.tracking import delivery as delivery_module
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.tracking.pacing import PACE, Line
from adarelu_sweep.tracking.snapshot import RunStatus, TrialSnapshot
from adarelu_sweep.tracking.study_report import StudyReport
from adarelu_sweep.training.history import EpochRecord, History
from tests.scripted import METRICS, ScriptedWorker, Stage, begin
from tests.test_packs import plan
from tests.test_tracking import Trial
from tests.waiting import wait_until

LATE = 0.5  # seconds within which what is due at once has arrived


class Recorder:
    """A tracker that notes when it was told what."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, TrialSnapshot]] = []
        self.away = Event()

    def begin_study(self) -> None: ...
    def deliver(self, snapshot: TrialSnapshot) -> None:
        self.calls.append((time.monotonic(), snapshot))
        if self.away.is_set():
            raise ConnectionError("away")

    def log_report(self, report: StudyReport) -> None: ...
    def register_best(self, report: StudyReport) -> str | None: ...
    def settle(self) -> None: ...
    def end_study(self, status: RunStatus) -> None: ...

    def of(self, trial: TrialSnapshot | int, status: RunStatus = "RUNNING") -> list[float]:
        """Return when a trial, or the run of that number, was delivered in a status."""
        number = trial if isinstance(trial, int) else trial.number
        return [when for when, one in self.calls if (one.number, one.status) == (number, status)]


@pytest.fixture
def trials(tmp_path: Path) -> list[TrialSnapshot]:
    record = plan(arms=1, seeds=2)
    return [Trial(tmp_path, record, number).snapshot() for number in range(2)]


def test_a_sweep_with_short_epochs_makes_a_call_per_slot_and_pace(tmp_path: Path) -> None:
    """Two slots with two trials each, of an epoch every 50 ms."""
    tracker, said = Recorder(), {}
    seconds = 2.5 * PACE

    def train(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        start, records = time.monotonic(), []
        while time.monotonic() < start + seconds:
            time.sleep(0.05)
            epoch = len(records) + 1
            records.append(EpochRecord(epoch=epoch, timestamp=epoch, metrics=METRICS))
            for order in task.trials:
                worker.say(EpochDone(trial=order.number, record=records[-1]))
        for order in task.trials:
            said[order.number] = (start, time.monotonic())
            history = History(epochs=records, outcome="complete")
            worker.say(Finished(trial=order.number, history=history))

    stage = Stage(tmp_path, plan(arms=1, seeds=4))
    stage.end()
    stage._nowhere = delivery = Delivery(lambda: tracker, print)
    stage.parts = {"one": [train], "other": [train]}
    assert stage.run(pack=2).state == "complete"
    assert delivery.finish("FINISHED", None, patience=10)
    for task in stage.tasks:
        numbers = [order.number for order in task.trials]
        assert len(numbers) == 2
        begun = max(tracker.of(number)[0] for number in numbers)
        running = sorted(when for number in numbers for when in tracker.of(number))
        later = [begun, *(when for when in running if when > begun)]
        assert all(after - before > 0.95 * PACE for before, after in pairwise(later))
        assert len(later) == 3, "one call in each of two whole paces"
        for number in numbers:
            start, end = said[number]
            assert len(tracker.of(number)) == 2, "the trials of a pack take turns"
            assert tracker.of(number)[0] < start + LATE
            (ended,) = tracker.of(number, "FINISHED")
            assert max(tracker.of(number)) < ended < end + LATE


def test_nothing_waits_for_the_end_of_its_pace_when_the_study_ends(
    trials: list[TrialSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    take = Line.take
    monkeypatch.setattr(Line, "take", lambda *given, **how: asked.append(1) or take(*given, **how))
    tracker = Recorder()
    delivery = Delivery(lambda: tracker, print)
    for trial in trials:
        delivery.post(trial, slot=0)
    wait_until(lambda: len(tracker.calls) == 2)
    before = len(asked)
    for trial in trials:
        delivery.post(trial, slot=0, at_once=False)
    time.sleep(PACE / 2)
    assert len(tracker.calls) == 2
    assert len(asked) - before <= 8, "who waits sleeps"
    began = time.monotonic()
    assert delivery.finish("FINISHED", None, patience=10)
    assert time.monotonic() - began < LATE
    assert [len(tracker.of(trial)) for trial in trials] == [2, 2]


def test_what_did_not_arrive_is_repeated_at_the_pace_of_retries(
    trials: list[TrialSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_RETRY_SECONDS", 0.05)
    tracker = Recorder()
    tracker.away.set()
    delivery = Delivery(lambda: tracker, print)
    began = time.monotonic()
    delivery.post(trials[0], slot=0)
    wait_until(lambda: len(tracker.calls) >= 2)
    delivery.post(trials[0], slot=0, at_once=False)
    tracker.away.clear()
    wait_until(lambda: not delivery._line)
    assert time.monotonic() - began < PACE
    assert delivery.finish("FINISHED", None, patience=10)


def test_a_newer_state_waits_for_the_one_in_hand(trials: list[TrialSnapshot]) -> None:
    line, (one, other) = Line(), trials
    line.put(one, slot=0)
    assert line.take() is one
    line.put(one, slot=0, at_once=False)
    line.put(one)  # it ends
    assert line.take(hurry=True) is None
    line.put(other, slot=1)
    assert line.take() is other
    line.put_down(one, arrived=True)
    assert line.take() is one
    assert line.take(hurry=True) is None
    line.put_down(one, arrived=True)
    line.put_down(other, arrived=True)
    assert not line
