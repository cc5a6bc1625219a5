"""The supervisor's decisions about several GPUs, over workers that follow a script.

No machine of the tests has two GPUs. Agenda, ledger and loop are the real ones; a worker here says
what a real one would, and trains nothing.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Gone, Said, Slot
from adarelu_sweep.launching.messages import (
    Failed,
    Finished,
    FromWorker,
    Progress,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    ToWorker,
)
from adarelu_sweep.studies.schema import ExecutionSettings
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.ledger import Ledger
from adarelu_sweep.supervising.patience import Patience
from adarelu_sweep.supervising.supervisor import Ending, Signalled, Supervisor, SupervisorInbox
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.training.history import EpochRecord, History
from tests.test_ledger import record

LONGEST = 30.0  # seconds, after which a sweep counts as hanging
METRICS = {"test/accuracy": 50.0, "test/loss": 1.0, "train/loss": 1.0, "images_per_second": 1.0}

Part = Callable[["ScriptedWorker", int], None]
"""What a worker does with a trial's number."""


class Lines(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


class ScriptedWorker:
    def __init__(self, stage: "Stage", slot: Slot, part: Part | None) -> None:
        self.slot = slot
        self._stage = stage
        self._part = part
        self._ended = False
        if part is None:
            self.end("exited with 1")
        else:
            self.say(Ready(host="here", pid=1, device=slot.device, versions={}))

    def say(self, message: FromWorker) -> None:
        if not self._ended:
            self._stage.inbox.put(Said(self, message))

    def end(self, reason: str, in_order: bool = False) -> None:
        if not self._ended:
            self._ended = True
            self._stage.inbox.put(Gone(self, reason, in_order))

    def send(self, message: ToWorker) -> None:
        if isinstance(message, Task):
            assert self._part is not None
            Thread(target=self._part, args=(self, message.trials[0].number), daemon=True).start()
        elif isinstance(message, Quit):
            self.end("exited with 0", in_order=True)

    def kill(self) -> None:
        self.end("was killed")


class Stage:
    """Slots, and the parts that their workers play, one after the other; the last one stays."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self.inbox = SupervisorInbox()
        self.display = Lines()
        self.parts: dict[str, list[Part | None]] = {}
        self.started: list[str] = []
        ledger = Ledger(folder / "optuna.db")
        plan = record(seeds=seeds)
        self.agenda = Agenda(ledger.create(plan), Home(folder))
        self._folder = folder
        self._nowhere = Delivery(self._no_tracker, self.display.say)

    def _no_tracker(self) -> None:
        raise ConnectionError("there is none here")

    def start(self, slot: Slot) -> ScriptedWorker:
        self.started.append(slot.device)
        parts = self.parts[slot.device]
        return ScriptedWorker(self, slot, parts.pop(0) if len(parts) > 1 else parts[0])

    def close(self) -> None:
        pass

    def run(self, **execution: float) -> Ending:
        slots = [Slot(index, 1, device, device) for index, device in enumerate(self.parts)]
        supervisor = Supervisor(
            self.agenda,
            self,
            self.inbox,
            slots,
            self._nowhere,
            self.display,
            self._folder,
            ExecutionSettings.model_validate(execution),
            Patience(),
        )
        endings: list[Ending] = []

        def hang() -> None:  # signals end any sweep, a hanging one, too
            time.sleep(LONGEST)
            for _ in range(2):
                self.inbox.put(Signalled(15))

        Thread(target=hang, daemon=True).start()
        endings.append(supervisor.run())
        return endings[0]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[int], Stage]]:
    stages: list[Stage] = []

    def make(seeds: int) -> Stage:
        stages.append(Stage(tmp_path, seeds))
        return stages[-1]

    yield make
    for made in stages:
        made._nowhere.finish("KILLED", None, patience=0)


def finishing(after: float = 0.0) -> Part:
    def part(worker: ScriptedWorker, trial: int) -> None:
        worker.say(Started(trial=trial, history=History()))
        time.sleep(after)
        epoch = EpochRecord(epoch=1, timestamp=1, metrics=METRICS)
        history = History(epochs=[epoch], outcome="complete")
        worker.say(Finished(trial=trial, history=history))

    return part


def wanting_memory(after: float = 0.0) -> Part:
    def part(worker: ScriptedWorker, trial: int) -> None:
        time.sleep(after)
        worker.say(Failed(trials=[trial], cause="memory", error="OOM", traceback=""))
        worker.end("exited with 1")

    return part


def stuck(worker: ScriptedWorker, trial: int) -> None:
    worker.say(Started(trial=trial, history=History()))


def talkative(worker: ScriptedWorker, trial: int) -> None:
    worker.say(Started(trial=trial, history=History()))
    for _ in range(60):
        time.sleep(0.1)
        worker.say(Progress())
    finishing()(worker, trial)


def test_a_trial_gets_its_gpu_alone_while_another_gpu_has_nothing_left_to_do(
    stage: Callable[[int], Stage],
) -> None:
    sweep = stage(1)
    trials = sweep.agenda.left()
    sweep.parts = {"GPU-a": [wanting_memory(0.5), finishing()], "GPU-b": [finishing()]}
    assert sweep.run().state == "complete"
    assert sweep.agenda.counts().complete == trials
    assert sweep.started.count("GPU-a") == 2


def test_a_trial_that_was_to_have_a_gpu_alone_goes_elsewhere_once_that_is_given_up(
    stage: Callable[[int], Stage],
) -> None:
    sweep = stage(2)
    sweep.parts = {"GPU-a": [wanting_memory(), None], "GPU-b": [finishing(0.2)]}
    assert sweep.run().state == "complete"
    assert any("slot 0 is given up" in line for line in sweep.display.said)


def test_a_silent_worker_is_noticed_while_others_talk(stage: Callable[[int], Stage]) -> None:
    sweep = stage(1)
    sweep.parts = {"GPU-a": [stuck, finishing()], "GPU-b": [talkative]}
    began = time.monotonic()
    noticed: list[float] = []
    say = sweep.display.say

    def noting(line: str) -> None:
        if "made no progress for 1 s" in line:
            noticed.append(time.monotonic() - began)
        say(line)

    sweep.display.say = noting  # type: ignore[method-assign]
    assert sweep.run(stall_timeout=1).state == "complete"
    assert 1 < noticed[0] < 5


def test_workers_are_asked_to_stop_before_the_user_is_told(stage: Callable[[int], Stage]) -> None:
    """What is said may come to a terminal that is no more."""
    sweep = stage(1)
    asked: list[ToWorker] = []
    told: list[int] = []

    def signalled(worker: ScriptedWorker, trial: int) -> None:
        stuck(worker, trial)
        send = worker.send

        def noting(message: ToWorker) -> None:
            asked.append(message)
            send(message)
            worker.end("was stopped")

        worker.send = noting  # type: ignore[method-assign]
        sweep.inbox.put(Signalled(1))

    def say(line: str) -> None:
        if "stopping" in line:
            told.append(len(asked))

    sweep.display.say = say  # type: ignore[method-assign]
    sweep.parts = {"GPU-a": [signalled]}
    ending = sweep.run()
    assert (ending.state, ending.signal) == ("interrupted", 1)
    assert [type(message) for message in asked][:1] == [Stop]
    assert told == [1]
