"""Packs: who is trained together, and that nobody pays for what another one of the pack does."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from rich.console import Console

from adarelu_sweep.benchmarking.measured import Conditions, Measurement, Measurements, Spread
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.messages import Finished, Interrupted, Note, Task
from adarelu_sweep.placing.packing import (
    AUTO,
    LARGEST,
    Packing,
    best_size,
    measured_size,
    pack_size,
)
from adarelu_sweep.recording.databases import TakenError
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.trials import Counts
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.supervising.agenda import Agenda
from adarelu_sweep.supervising.display import LiveDisplay
from adarelu_sweep.supervising.supervisor import Signalled
from adarelu_sweep.training.history import EpochRecord, History
from adarelu_sweep.training.settings import TrialSettings
from tests.scripted import (
    LONGEST,
    METRICS,
    ScriptedWorker,
    Stage,
    begin,
    fail,
    finish,
    finishing,
    train,
    wanting_memory,
)
from tests.test_ledger import record
from tests.test_search import read
from tests.trials import trial_settings

GPU = Slot(0, 1, "GPU-a", "GPU 0 (Fast)", "Fast")


def plan(arms: int, seeds: int) -> StudyRecord:
    whole = record(seeds=seeds)
    matrix = whole.study.matrix
    few = matrix.model_copy(update={"activation": matrix.activation[:arms]})
    return whole.model_copy(update={"study": whole.study.model_copy(update={"matrix": few})})


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[StudyRecord], Stage]]:
    stages: list[Stage] = []

    def make(study: StudyRecord) -> Stage:
        stages.append(Stage(tmp_path, study))
        return stages[-1]

    yield make
    for made in stages:
        made.end()


def sizes(tasks: list[Task]) -> list[int]:
    return [len(task.trials) for task in tasks]


def is_of(task: Task, activation: str) -> bool:
    return task.trials[0].settings.activation.name == activation


def holds(task: Task, number: int) -> bool:
    return number in {order.number for order in task.trials}


def lines(stage: Stage, part: str) -> list[str]:
    return [line for line in stage.display.said if part in line]


# Who is trained together


def test_packs_are_of_one_arm_and_every_trial_is_in_one(
    stage: Callable[[StudyRecord], Stage],
) -> None:
    sweep = stage(plan(arms=2, seeds=3))
    sweep.parts = {"GPU-a": [finishing()], "GPU-b": [finishing()]}
    assert sweep.run(pack=3).state == "complete"
    assert sizes(sweep.tasks) == [3, 3]
    for task in sweep.tasks:
        first = task.trials[0]
        for order in task.trials:
            seed = {"seed": first.settings.seed}
            assert order.settings.model_copy(update=seed) == first.settings
            assert order.threads == first.threads
    trained = Counter(order.number for task in sweep.tasks for order in task.trials)
    assert trained == dict.fromkeys(range(6), 1)
    given = {order.number: str(len(task.trials)) for task in sweep.tasks for order in task.trials}
    for job in sweep.agenda.jobs():
        assert job.trial.state is TrialState.COMPLETE
        assert job.trial.tags["pack"] == given[job.trial.number]


def test_what_is_left_is_divided_among_the_slots(stage: Callable[[StudyRecord], Stage]) -> None:
    """Both workers have finished a pack of two when two trials are left."""
    both = Barrier(2)

    def in_step(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        history = History(epochs=train(worker, task), outcome="complete")
        both.wait(LONGEST)
        for order in task.trials:
            worker.say(Finished(trial=order.number, history=history))

    sweep = stage(plan(arms=1, seeds=6))
    sweep.parts = {"GPU-a": [in_step], "GPU-b": [in_step]}
    assert sweep.run(pack=2).state == "complete"
    assert sizes(sweep.tasks) == [2, 2, 1, 1]


def test_trials_of_a_search_go_alone_and_their_confirmations_together(
    stage: Callable[[StudyRecord], Stage], tmp_path: Path
) -> None:
    study = read(tmp_path, "search.trials=2", "search.confirm_seeds=3")
    sweep = stage(record().model_copy(update={"study": study}))
    sweep.parts = {"GPU-a": [finishing()]}
    assert sweep.run(pack=3).state == "complete"
    for task in sweep.tasks:
        searched = task.trials[0].settings.validation_fraction is not None
        assert len(task.trials) == (1 if searched else 3)
    assert sizes(sweep.tasks) == [1] * 4 + [3] * 2


def test_trials_of_other_threads_are_not_in_one_pack(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "optuna.db").create(record(seeds=4))
    home = Home(tmp_path)
    slow = Agenda(ledger, home).take(Slot(0, threads=2))
    assert slow is not None
    ledger.hand_back(slow.trial)
    agenda = Agenda(ledger, home)
    first = agenda.take(Slot(0, threads=1))
    assert first is not None
    assert first.trial.threads == 2  # the one that waits, before those that never began
    assert agenda.take_along(first, 3, Slot(0, threads=1)) == []
    agenda.put_back(first)
    first = agenda.take(Slot(0, threads=2))
    assert first is not None
    others = agenda.take_along(first, 63, Slot(0, threads=2))
    assert [job.cell.settings.seed for job in (first, *others)] == [0, 1, 2, 3]


# A worker is lost


def test_a_pack_whose_worker_dies_goes_on(stage: Callable[[StudyRecord], Stage]) -> None:
    def dying(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        train(worker, task)
        worker.end("was killed by SIGKILL")

    sweep = stage(plan(arms=2, seeds=3))
    sweep.parts = {"GPU-a": [dying, finishing()], "GPU-b": [finishing(0.1)]}
    assert sweep.run(pack=3).state == "complete"
    (told,) = lines(sweep, "SIGKILL")
    assert "/0 and 2 more: their worker was killed by SIGKILL; they go on in another" in told
    lost = [job for job in sweep.agenda.jobs() if job.trial.losses]
    assert len(lost) == 3
    assert {job.trial.losses for job in lost} == {1}
    assert {job.trial.attempts for job in lost} == {2}


@pytest.mark.parametrize("max_retries", [0, 3])
def test_one_that_kills_every_worker_fails_and_takes_nobody_along(
    stage: Callable[[StudyRecord], Stage], max_retries: int
) -> None:
    def deadly(worker: ScriptedWorker, task: Task) -> None:
        if holds(task, 0):
            begin(worker, task)
            worker.end("was killed by SIGSEGV")
        else:
            finish(worker, task)

    sweep = stage(plan(arms=1, seeds=4))
    sweep.parts = {"GPU-a": [deadly]}
    assert sweep.run(pack=4, max_retries=max_retries).state == "failed"
    failed = [job for job in sweep.agenda.jobs() if job.trial.state is TrialState.FAIL]
    assert [job.trial.number for job in failed] == [0]
    assert "its worker was lost" in str(failed[0].trial.error)
    assert sweep.agenda.counts().complete == 3


# Memory runs out


def test_want_of_memory_halves_a_pack_until_one_has_the_device_to_itself(
    stage: Callable[[StudyRecord], Stage],
) -> None:
    def hungry(worker: ScriptedWorker, task: Task) -> None:
        (wanting_memory() if is_of(task, "relu") else finishing())(worker, task)

    sweep = stage(plan(arms=2, seeds=4))
    sweep.parts = {"GPU-a": [hungry]}
    assert sweep.run(pack=4).state == "failed"
    tried = [task for task in sweep.tasks if is_of(task, "relu")]
    assert sizes([task for task in tried if holds(task, 0)]) == [4, 2, 1, 1]
    assert sizes([task for task in sweep.tasks if task not in tried]) == [4]
    assert len(lines(sweep, "4 at once are too many: again in packs of 2")) == 1
    assert len(lines(sweep, "2 at once are too many: again one by one")) == 1
    assert len(lines(sweep, "it is tried again alone")) == 4
    for name, job in sweep.jobs().items():
        hungry_one = name.startswith("relu/")
        assert job.trial.state is (TrialState.FAIL if hungry_one else TrialState.COMPLETE)
        assert job.trial.losses == 0
    assert sweep.jobs()["relu/0"].trial.error == "with the device to itself: OOM"


def test_a_pack_for_which_memory_suffices_is_found_once(
    stage: Callable[[StudyRecord], Stage],
) -> None:
    def for_two(worker: ScriptedWorker, task: Task) -> None:
        (wanting_memory() if len(task.trials) > 2 else finishing())(worker, task)

    sweep = stage(plan(arms=1, seeds=8))
    sweep.parts = {"GPU-a": [for_two]}
    assert sweep.run(pack=4).state == "complete"
    assert sizes(sweep.tasks) == [4, 2, 2, 2, 2]


# An exception


def test_an_exception_fails_the_one_whose_it_is(stage: Callable[[StudyRecord], Stage]) -> None:
    def raising(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        if holds(task, 2):
            fail(worker, task, trials=[2], error="ArithmeticError")
        else:
            finish(worker, task)

    sweep = stage(plan(arms=1, seeds=4))
    sweep.parts = {"GPU-a": [raising]}
    assert sweep.run(pack=4).state == "failed"
    states = {job.trial.number: job.trial.state for job in sweep.agenda.jobs()}
    assert [n for n, state in states.items() if state is not TrialState.COMPLETE] == [2]
    assert {job.trial.losses for job in sweep.agenda.jobs()} == {0}


def test_an_exception_of_nobody_in_particular_is_looked_for_one_by_one(
    stage: Callable[[StudyRecord], Stage],
) -> None:
    def raising(worker: ScriptedWorker, task: Task) -> None:
        if holds(task, 2):
            fail(worker, task, error="CudaError")
        else:
            finish(worker, task)

    sweep = stage(plan(arms=1, seeds=4))
    sweep.parts = {"GPU-a": [raising]}
    assert sweep.run(pack=4).state == "failed"
    assert len(lines(sweep, "CudaError; each is tried again by itself")) == 1
    states = {job.trial.number: job.trial.state for job in sweep.agenda.jobs()}
    assert [n for n, state in states.items() if state is not TrialState.COMPLETE] == [2]


# Stopping


def test_a_stop_while_a_pack_trains(stage: Callable[[StudyRecord], Stage]) -> None:
    """What has its outcome keeps it, the others wait."""
    sweep = stage(plan(arms=1, seeds=3))

    def training(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        first, *others = task.trials
        history = History(epochs=train(worker, task), outcome="complete")
        worker.say(Finished(trial=first.number, history=history))
        sweep.inbox.put(Signalled(2))
        assert worker.stopped.wait(LONGEST)
        for order in others:
            worker.say(Interrupted(trial=order.number))

    sweep.parts = {"GPU-a": [training]}
    assert sweep.run(pack=3).state == "interrupted"
    states = Counter(job.trial.state for job in sweep.agenda.jobs())
    assert states == {TrialState.COMPLETE: 1, TrialState.WAITING: 2}


def test_a_worker_with_a_pack_that_is_asked_to_go(stage: Callable[[StudyRecord], Stage]) -> None:
    def leaving(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        for order in task.trials:
            worker.say(Interrupted(trial=order.number, leaving=True))
        worker.end("exited with 0", in_order=True)

    sweep = stage(plan(arms=1, seeds=3))
    sweep.parts = {"GPU-a": [leaving, finishing()]}
    assert sweep.run(pack=3).state == "complete"
    (told,) = lines(sweep, "asked to go")
    assert "and 2 more: their worker was asked to go; they go on in another" in told
    assert {job.trial.losses for job in sweep.agenda.jobs()} == {0}


def test_a_supervisor_whose_study_is_taken_ends_and_records_nothing_more(
    stage: Callable[[StudyRecord], Stage],
) -> None:
    def superseded(worker: ScriptedWorker, task: Task) -> None:
        begin(worker, task)
        worker.say(Note(trial=task.trials[0].number, text="another supervisor"))
        for order in task.trials:
            worker.say(Interrupted(trial=order.number, leaving=True, superseded=True))
        worker.end("exited with 0", in_order=True)

    sweep = stage(plan(arms=1, seeds=3))
    sweep.parts = {"GPU-a": [superseded, finishing()]}
    with pytest.raises(TakenError, match="another supervisor has taken study 'mine'"):
        sweep.run(pack=3)
    assert len(lines(sweep, "another supervisor")) == 1
    assert len(sweep.tasks) == 1  # nobody tries again
    states = Counter(job.trial.state for job in sweep.agenda.jobs())
    assert states == {TrialState.RUNNING: 3}  # as the other one has found and taken them
    assert {job.trial.losses for job in sweep.agenda.jobs()} == {0}


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(["finish", "die", "memory", "raise"]), max_size=8),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_whatever_happens_to_workers_every_trial_ends_once(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], pack: int, workers: int
) -> None:
    """Nobody fails but whose code raised an exception, or who wants memory again when alone."""
    culprits: list[int] = []
    starved: list[int] = []

    def fated(worker: ScriptedWorker, task: Task) -> None:
        fate = fates.pop() if fates else "finish"
        numbers = [order.number for order in task.trials]
        begin(worker, task)
        if fate == "die":
            worker.end("was killed")
        elif fate == "memory":
            if len(numbers) == 1:
                (culprits if numbers[0] in starved else starved).append(numbers[0])
            fail(worker, task, cause="memory", error="OOM")
        elif fate == "raise":
            culprits.append(numbers[-1])
            fail(worker, task, trials=numbers[-1:])
        else:
            finish(worker, task)

    sweep = Stage(tmp_path_factory.mktemp("fates"), plan(arms=2, seeds=3))
    try:
        sweep.parts = {f"GPU-{index}": [fated] for index in range(workers)}
        ending = sweep.run(pack=pack, max_retries=len(fates))
    finally:
        sweep.end()
    assert ending.state == ("failed" if culprits else "complete")
    failed = [j.trial.number for j in sweep.agenda.jobs() if j.trial.state is TrialState.FAIL]
    assert sorted(failed) == sorted(culprits)
    assert sweep.agenda.counts().complete == 6 - len(culprits)


def test_a_pack_has_one_row_of_the_live_display() -> None:
    console = Console(file=io.StringIO(), width=160)
    display = LiveDisplay(console, [GPU], epochs_per_trial=4)
    display.counts(Counts(total=9, complete=0, pruned=0, failed=0, running=3, waiting=6))
    display.given(GPU, ["relu/0", "relu/1", "relu/2"])
    for epoch, trial in enumerate(["relu/0", "relu/1", "relu/2"], start=1):
        display.epoch(GPU, trial, EpochRecord(epoch=epoch, timestamp=1, metrics=METRICS))
    display.finished(GPU, "relu/1", History())
    display.started(GPU, "relu/0", 1)
    console.print(display._render())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "0/9 trials" in shown
    assert "relu/0 and 1 more" in shown
    assert "epoch 1/4" in shown


# The size


@pytest.mark.parametrize("size", ["0", "65", "-1", "1.5", "two", "", "١", "1" * 5000])
def test_sizes_that_cannot_be(size: str) -> None:
    with pytest.raises(UserError, match="give auto, or a number from 1 to 64"):
        pack_size(size)


def test_sizes() -> None:
    assert pack_size(None) is None
    assert pack_size("auto") == AUTO
    assert [pack_size(str(size)) for size in (1, 8, LARGEST)] == [1, 8, LARGEST]


def measured(model: str, settings: TrialSettings, pack: int, rate: float) -> Measurement:
    conditions = Conditions.of(
        Slot(0, 1, "GPU-x", model=model), settings, Shape(32, 32, 1, 10), pack
    )
    spread = Spread.of([rate])
    return Measurement(
        conditions=conditions,
        training_images_per_second=spread,
        evaluation_images_per_second=spread,
        measured=date(2026, 11, 25),
        versions={},
    )


def test_the_size_that_was_measured_to_be_best(tmp_path: Path) -> None:
    home, trial, bf16 = Home(tmp_path), trial_settings(), trial_settings(precision="bf16")
    rates = {1: 100.0, 2: 190.0, 4: 300.0, 8: 301.0}
    Measurements.keep(
        home,
        [
            *(measured("Fast", trial, pack, rate) for pack, rate in rates.items()),
            *(measured("Fast", bf16, pack, rate) for pack, rate in {1: 9.0, 2: 20.0}.items()),
        ],
    )
    assert best_size(home, GPU, trial) == 4
    assert best_size(home, GPU, bf16) == 2
    assert best_size(home, GPU, trial_settings("resnet18")) == 1
    assert measured_size(home, GPU, trial) == 4
    assert measured_size(home, GPU, trial_settings("resnet18")) is None
    assert best_size(home, Slot(0, 1, "GPU-b", model="Slow"), trial) == 1
    assert best_size(home, Slot(0, 1), trial) == 1
    assert Packing(AUTO, home).size(GPU, trial) == 4
    assert Packing(3, home).size(GPU, trial) == 3


def test_measurements_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert best_size(home, GPU, trial_settings()) == 1
    home.bench_file.write_text("{")
    assert best_size(home, GPU, trial_settings()) == 1
