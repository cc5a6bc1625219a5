"""The supervisor's decisions about several GPUs, over workers that follow a script."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adarelu_sweep.launching.messages import Progress, Stop, Task, ToWorker
from adarelu_sweep.supervising.supervisor import Signalled
from tests.scripted import ScriptedWorker, Stage, begin, finish, finishing, wanting_memory
from tests.test_ledger import record


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[int], Stage]]:
    stages: list[Stage] = []

    def make(seeds: int) -> Stage:
        stages.append(Stage(tmp_path, record(seeds=seeds)))
        return stages[-1]

    yield make
    for made in stages:
        made.end()


def talkative(worker: ScriptedWorker, task: Task) -> None:
    for _ in range(60):
        time.sleep(0.1)
        worker.say(Progress())
    finish(worker, task)


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
    sweep.parts = {"GPU-a": [begin, finishing()], "GPU-b": [talkative]}
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

    def signalled(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
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
