"""What a worker does with a task that is a pack: real trainings, in this process."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch
from torch import Tensor, nn

from adarelu_sweep.launching import tasks
from adarelu_sweep.launching.messages import (
    EpochDone,
    Finished,
    FromWorker,
    Interrupted,
    Note,
    Started,
    Task,
    TrialOrder,
)
from adarelu_sweep.launching.tasks import TaskRunner, failure
from adarelu_sweep.storing.marks import MARK, put_mark
from adarelu_sweep.training.history import CHECKPOINT, CONFUSION_MATRIX, MODEL, History
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.settings import TrialSettings
from tests.trials import EPOCHS, measured, trial_settings

CPU = torch.device("cpu")
_FAR_TOO_MUCH = 2**52  # bytes


class Raising(nn.Module):
    """ReLU, until its second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self._calls += self.training
        if self._calls > 3:
            self.trouble()
        return torch.relu(x)

    def trouble(self) -> None:
        raise ArithmeticError("this does not add up")


class Hungry(Raising):
    def trouble(self) -> None:
        torch.empty(_FAR_TOO_MUCH, dtype=torch.uint8)


class Supervisor:
    """Hears what a task has to say, and asks to stop once ``until`` says so of a message.

    It prunes nothing.
    """

    def __init__(self, until: Callable[[FromWorker], bool] = lambda _: False) -> None:
        self.stop = Event()
        self.leaving = False
        self.heard: list[FromWorker] = []
        self._until = until

    def send(self, message: FromWorker) -> None:
        self.heard.append(message)
        if self._until(message):
            self.stop.set()

    def prune(self) -> bool:
        return False

    def leave(self) -> None:
        self.leaving = True

    def of(self, kind: type[Finished | Interrupted]) -> list[int]:
        """The trials of the messages of a kind."""
        return [m.trial for m in self.heard if isinstance(m, kind)]


def pack(folder: Path, *seeds: int, activation: str = "adarelu") -> Task:
    return Task(
        trials=[
            TrialOrder(
                number=seed,
                settings=trial_settings(activation=activation, seed=seed),
                folder=str(folder / str(seed)),
                threads=1,
            )
            for seed in seeds
        ],
        data_origin=str(folder),
    )


def kept(folder: Path, seed: int) -> tuple[object, ...]:
    """What has to be the same of a finished trial, whoever it was trained with."""
    own = folder / str(seed)
    history = History.read(own)
    files = [(own / name).read_bytes() for name in (MODEL, CONFUSION_MATRIX)]
    return measured(history), [repr(r.probes) for r in history.epochs], history.outcome, files


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of trials 1 to 4, each of which had the worker to itself."""
    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    runner = TaskRunner(CPU)
    for seed in (1, 2, 3, 4):
        runner.run(pack(folder, seed), Supervisor())
    torch.set_num_threads(before)
    return folder


@pytest.mark.usefixtures("one_thread")
def test_each_trial_of_a_pack_is_told_and_gets_its_numbers(alone: Path, tmp_path: Path) -> None:
    supervisor = Supervisor()
    TaskRunner(CPU).run(pack(tmp_path, 1, 2, 3), supervisor)
    kinds = [type(message) for message in supervisor.heard]
    assert kinds[:3] == [Started] * 3
    assert set(kinds[3:]) == {EpochDone, Finished}
    for seed in (1, 2, 3):
        own = [m for m in supervisor.heard if getattr(m, "trial", None) == seed]
        assert [type(message) for message in own] == [Started, *[EpochDone] * EPOCHS, Finished]
        assert kept(tmp_path, seed) == kept(alone, seed)


@pytest.mark.usefixtures("one_thread")
def test_the_network_of_a_trial_that_is_over_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: Python looks for cycles so seldom that a night's networks would fill the memory."""
    built: list[weakref.ref[nn.Module]] = []
    build = Lane._initial_network

    def noted(lane: Lane, settings: TrialSettings) -> nn.Module:
        network = build(lane, settings)
        built.append(weakref.ref(network))
        return network

    monkeypatch.setattr(Lane, "_initial_network", noted)
    runner = TaskRunner(CPU)
    gc.collect()
    gc.disable()
    try:
        for seeds in ((1,), (2, 3)):
            runner.run(pack(tmp_path, *seeds), Supervisor())
    finally:
        gc.enable()
    assert len(built) == 3
    assert all(network() is None for network in built)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_lanes_on_a_gpu_serve_their_arms_again_while_memory_is_plenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TaskRunner(torch.device("cuda"))
    for seed in (1, 2):  # as a study goes through its arms
        for activation in ("relu", "adarelu"):
            runner.run(pack(tmp_path / activation, seed, activation=activation), Supervisor())
    assert len(runner._free) == 2
    monkeypatch.setattr(tasks, "is_scarce", lambda _device: True)
    before = torch.cuda.memory_reserved()
    runner.run(pack(tmp_path / "prelu", 1, activation="prelu"), Supervisor())
    assert len(runner._free) == 1
    assert torch.cuda.memory_reserved() < before


@pytest.mark.usefixtures("one_thread")
def test_a_pack_that_is_stopped_goes_on_in_others(alone: Path, tmp_path: Path) -> None:
    """Whoever is in them: what was trained longer alone, or not at all so far."""
    first = Supervisor(lambda message: isinstance(message, EpochDone))
    TaskRunner(CPU).run(pack(tmp_path, 1, 2, 3), first)
    assert first.of(Interrupted) == [1, 2, 3]
    assert first.of(Finished) == []
    second = Supervisor(lambda m: isinstance(m, EpochDone) and m.record.epoch == EPOCHS - 1)
    TaskRunner(CPU).run(pack(tmp_path, 1), second)
    third = Supervisor()
    TaskRunner(CPU).run(pack(tmp_path, 4, 1), third)
    TaskRunner(CPU).run(pack(tmp_path, 3, 2), third)
    assert sorted(third.of(Finished)) == [1, 2, 3, 4]
    for seed in (1, 2, 3, 4):
        assert kept(tmp_path, seed) == kept(alone, seed)


@pytest.mark.usefixtures("one_thread")
def test_what_has_its_outcome_keeps_it_when_a_pack_is_stopped(tmp_path: Path) -> None:
    runner = TaskRunner(CPU)
    runner.run(pack(tmp_path, 1), Supervisor())
    supervisor = Supervisor(lambda message: isinstance(message, Finished))
    runner.run(pack(tmp_path, 2, 1), supervisor)
    assert supervisor.of(Finished) == [1]
    assert supervisor.of(Interrupted) == [2]


def test_a_pack_that_is_to_stop_before_it_begins_leaves_no_trace(tmp_path: Path) -> None:
    supervisor = Supervisor()
    supervisor.stop.set()
    TaskRunner(CPU).run(pack(tmp_path, 1, 2), supervisor)
    assert supervisor.heard == [Interrupted(trial=1), Interrupted(trial=2)]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "cause", "culprits"), [("Raising", "exception", 1), ("Hungry", "memory", 3)]
)
def test_an_exception_is_of_one_trial_and_want_of_memory_of_all(
    tmp_path: Path, name: str, cause: str, culprits: int
) -> None:
    task = pack(tmp_path, 1, 2, 3, activation=f"tests.test_tasks:{name}")
    with pytest.raises(Exception, match=r"\d") as raised:
        TaskRunner(CPU).run(task, Supervisor())
    failed = failure(task, raised.value, CPU)
    assert failed.cause == cause
    assert len(failed.trials) == culprits
    assert failed.traceback.startswith("Traceback (most recent call last):")
    assert "in trouble" in failed.traceback
    assert failed.error.startswith("ArithmeticError: this" if culprits == 1 else "RuntimeError")
    assert (tmp_path / str(failed.trials[0]) / CHECKPOINT).exists()


# In a place of the study's own


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in a place besides its mark."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARK
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.mark.usefixtures("one_thread")
def test_who_is_superseded_writes_nothing_more_and_leaves(place: Path) -> None:
    (order,) = pack(place, 1).trials
    stepwise = order.model_copy(update={"awaits_decision": True})  # nothing is being written then
    task = pack(place, 1).model_copy(update={"trials": [stepwise], "fence": put_mark(place, "uid")})
    left: dict[str, bytes] = {}

    def taken_after_an_epoch(message: FromWorker) -> bool:
        if isinstance(message, EpochDone):
            put_mark(place, "uid")
            left.update(files_of(place))
        return False

    supervisor = Supervisor(taken_after_an_epoch)
    TaskRunner(CPU).run(task, supervisor)
    assert [type(m) for m in supervisor.heard] == [Started, EpochDone, Note, Interrupted]
    note, last = supervisor.heard[-2:]
    assert isinstance(note, Note)
    assert note.text == (
        "another supervisor has taken the study: nothing more of it is written here"
    )
    assert last == Interrupted(trial=1, leaving=True, superseded=True)
    assert supervisor.leaving
    assert left
    assert files_of(place) == left


@pytest.mark.usefixtures("one_thread")
def test_a_pack_that_is_superseded_leaves_as_a_whole(place: Path) -> None:
    task = pack(place, 1, 2).model_copy(update={"fence": put_mark(place, "uid")})

    def taken_at_the_start(message: FromWorker) -> bool:
        if isinstance(message, Started):
            put_mark(place, "uid")
        return False

    supervisor = Supervisor(taken_at_the_start)
    TaskRunner(CPU).run(task, supervisor)
    assert [message.trial for message in supervisor.heard if isinstance(message, Note)] == [1]
    assert supervisor.of(Interrupted) == [1, 2]
    assert files_of(place) == {}


@pytest.mark.usefixtures("one_thread")
def test_a_folder_that_is_away_is_waited_for_and_not_made(
    alone: Path, place: Path, tmp_path: Path
) -> None:
    task = pack(place, 1).model_copy(update={"fence": put_mark(place, "uid")})
    away = tmp_path / "away"

    def back_once_it_is_missed(message: FromWorker) -> bool:
        if isinstance(message, Note):
            assert not place.exists()
            away.rename(place)
        return False

    place.rename(away)
    beginning = Supervisor(back_once_it_is_missed)
    TaskRunner(CPU).run(task, beginning)
    assert isinstance(waited := beginning.heard[0], Note)
    assert waited.text == (
        f"it waits for what may be stored of it ({place}: {MARK} is missing there: mount the "
        "folder that it is in)"
    )
    assert beginning.of(Finished) == [1]
    assert kept(place, 1) == kept(alone, 1)


@pytest.mark.usefixtures("one_thread")
def test_checkpoints_wait_for_a_folder_that_goes_while_it_trains(
    alone: Path, place: Path, tmp_path: Path
) -> None:
    task = pack(place, 1).model_copy(update={"fence": put_mark(place, "uid")})
    away = tmp_path / "away"

    def gone_for_a_while(message: FromWorker) -> bool:
        if isinstance(message, Started):
            place.rename(away)
        if isinstance(message, Note):
            assert message.text.startswith(f"its checkpoint is not written ({place}: {MARK}")
            assert not place.exists()
            away.rename(place)
        return False

    supervisor = Supervisor(gone_for_a_while)
    TaskRunner(CPU).run(task, supervisor)
    kinds = [type(message) for message in supervisor.heard]
    assert kinds == [Started, Note, *[EpochDone] * EPOCHS, Finished]
    assert kept(place, 1) == kept(alone, 1)
