"""Saving beside the training: what is handed out is on the disk, which is waited for late."""

import errno
import gc
import os
import weakref
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
import torch
from torch import nn

from adarelu_sweep.training import checkpoint as checkpoints
from adarelu_sweep.training import snapshot as snapshots
from adarelu_sweep.training.checkpoint import Checkpoint, load_checkpoint, unpacked
from adarelu_sweep.training.history import CHECKPOINT, EpochRecord, History
from adarelu_sweep.training.pack import Pack
from adarelu_sweep.training.saving import Saver
from adarelu_sweep.training.snapshot import Snapshot
from adarelu_sweep.training.stopping import StopRequestedError
from tests.trials import EPOCHS, STEPS, after, begin, fingerprint, never, train, trial_settings


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch=epoch, timestamp=epoch, metrics={})


class Disk:
    """Writes when it may, and fails as it is told."""

    def __init__(self) -> None:
        self.may_write = Event()
        self.written: list[int] = []
        self.errors: list[OSError] = []

    def write(self, epoch: int) -> None:
        assert self.may_write.wait(60)
        if self.errors:
            raise self.errors.pop()
        self.written.append(epoch)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.may_write.set()


def no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def turns(count: int) -> Generator[None, None, str]:
    for _ in range(count):
        yield
    return "done"


def test_a_record_is_handed_out_once_it_is_written_and_work_goes_on_meanwhile(disk: Disk) -> None:
    saver = Saver(never, pytest.fail)
    saver.save(lambda: disk.write(1), record(1))
    work = saver.beside(turns(3))
    assert [next(work), next(work)] == [None, None]
    assert not disk.written
    disk.may_write.set()
    while (said := next(work)) is None:
        work = saver.beside(turns(3))
    assert said == record(1)
    assert disk.written == [1]
    saver.close()


def test_work_beside_saving_returns_what_it_returns(disk: Disk) -> None:
    saver = Saver(never, pytest.fail)
    seen = []

    def outer() -> Generator[EpochRecord | None, None, None]:
        seen.append((yield from saver.beside(turns(2))))

    assert list(outer()) == [None, None]
    assert seen == ["done"]
    saver.close()


def test_the_next_one_waits_for_the_one_before(disk: Disk) -> None:
    saver = Saver(never, pytest.fail)
    saver.save(lambda: disk.write(1), record(1))
    waiting = Thread(target=lambda: saver.save(lambda: disk.write(2), record(2)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    disk.may_write.set()
    waiting.join()
    assert saver.wait()
    assert list(saver.whole()) == [record(1), record(2)]
    assert disk.written == [1, 2]
    saver.close()


def test_without_room_records_wait_for_the_next_one_that_finds_some(disk: Disk) -> None:
    disk.may_write.set()
    disk.errors = [no_room(), no_room()]
    told: list[str] = []
    saver = Saver(never, told.append)
    for epoch in (1, 2):
        saver.save(lambda epoch=epoch: disk.write(epoch), record(epoch))  # type: ignore[misc]
        assert not saver.wait()
        assert list(saver.whole()) == []
    saver.save(lambda: disk.write(3), record(3))
    assert saver.wait()
    assert list(saver.whole()) == [record(1), record(2), record(3)]
    assert disk.written == [3]
    assert len(told) == 1
    saver.close()


def test_what_found_no_room_is_not_kept_in_memory(disk: Disk) -> None:
    class State:
        def write(self) -> None:
            raise no_room()

    gc.disable()
    try:
        saver, state = Saver(never, lambda _: None), State()
        kept = weakref.ref(state)
        saver.save(state.write)
        del state
        assert not saver.wait()
        saver.save(lambda: None)  # the thread has let go of it
        assert saver.wait()
        assert kept() is None
        saver.close()
    finally:
        gc.enable()


def test_who_waits_for_room_is_heard_when_asked_to_stop(disk: Disk) -> None:
    disk.may_write.set()
    disk.errors = [no_room()] * 2
    saver = Saver(iter([False, True]).__next__, lambda _: None)
    with pytest.raises(StopRequestedError):
        saver.save_and_wait(lambda: disk.write(1), record(1))
    saver.close()


def test_another_error_is_raised(disk: Disk) -> None:
    disk.may_write.set()
    disk.errors = [OSError(errno.EIO, "the disk is broken")]
    saver = Saver(never, pytest.fail)
    saver.save(lambda: disk.write(1), record(1))
    with pytest.raises(OSError, match="the disk is broken"):
        saver.save(lambda: disk.write(2), record(2))
    saver.close()


def test_a_checkpoint_is_that_of_its_moment(tmp_path: Path) -> None:
    def pair() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        network(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()

    network, optimizer = pair()
    step(network, optimizer)
    metrics = {"test/loss": 1.0, "test/accuracy": 1.0}
    first, second = (EpochRecord(epoch=e, timestamp=0, metrics=metrics) for e in (1, 2))
    history = History(epochs=[first])
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    moment = Checkpoint(network, optimizer, history)
    step(network, optimizer)
    history.epochs.append(second)
    moment.write(tmp_path)
    restored, its_optimizer = pair()
    found, notes = load_checkpoint(tmp_path, restored, its_optimizer, trial_settings())
    assert (found.epochs, notes) == ([first], [])
    assert all(torch.equal(value, kept[name]) for name, value in restored.state_dict().items())


def test_a_device_without_room_for_copies_has_them_made_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, calls = snapshots._copy, count()

    def crowded(tensor: torch.Tensor) -> torch.Tensor:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("a stand-in: a CPU has no device memory to run out of")
        return copy(tensor)

    monkeypatch.setattr(snapshots, "_copy", crowded)
    tensors = {"a": torch.arange(3.0), "b": torch.arange(4.0)}
    snapshot = Snapshot(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    read = unpacked(b"".join(snapshot.packed({})))
    assert [read[name].tolist() for name in "ab"] == [[0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_snapshot_is_that_of_its_moment_whatever_the_stream_does_next() -> None:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        tensor = torch.ones(2**26, device="cuda")
        for _ in range(50):
            tensor.mul_(1.0)  # so that the copy is made after it was asked for
        snapshot = Snapshot({"tensor": tensor})
        tensor.fill_(2.0)
    content: list[bytes] = []
    reading = Thread(target=lambda: content.append(b"".join(snapshot.packed({}))))
    reading.start()
    reading.join()
    assert torch.equal(unpacked(content[0])["tensor"], torch.ones(2**26))


# Of a trial


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Checkpoints are written as ever, but not before this is set."""
    go_on, write = Event(), checkpoints.write_whole

    def wait_and_write(path: Path, *content: Any, before: str | None = None) -> None:
        assert path.name != CHECKPOINT or go_on.wait(60)
        write(path, *content, before=before)

    monkeypatch.setattr(checkpoints, "write_whole", wait_and_write)
    yield go_on
    go_on.set()


def test_the_next_epoch_is_trained_while_a_checkpoint_is_written(
    held: Event, tmp_path: Path
) -> None:
    trial = begin(trial_settings(), tmp_path / "trial")
    turns = trial.turns(never)
    assert [next(turns) for _ in range(2 * STEPS)] == [None] * 2 * STEPS
    assert len(trial.history.epochs) == 1  # the second one's last step is done, and it not counted
    assert not (trial.folder / CHECKPOINT).exists()
    held.set()
    records = [record for record in turns if record is not None]
    assert [record.epoch for record in records] == list(range(1, EPOCHS + 1))
    assert fingerprint(trial) == fingerprint(train(trial_settings(), tmp_path / "undisturbed"))


@pytest.mark.parametrize("together", [False, True])
def test_who_is_stopped_waits_for_the_checkpoint_and_hands_its_record_out(
    held: Event, tmp_path: Path, together: bool
) -> None:
    trials = [begin(trial_settings(seed=seed), tmp_path / str(seed)) for seed in range(2)]
    trials = trials if together else trials[:1]
    handed: list[tuple[int, int]] = []

    def run() -> None:
        stop = after((STEPS + 2) * len(trials))
        for trial, record in Pack(trials).train(stop, lambda *_: None):
            assert record is not None
            handed.append((trial.settings.seed, record.epoch))

    def stopped() -> None:
        with pytest.raises(StopRequestedError):
            run()

    training = Thread(target=stopped)
    training.start()
    training.join(0.5)
    assert training.is_alive()
    held.set()
    training.join()
    assert sorted(handed) == [(trial.settings.seed, 1) for trial in trials]
    assert [len(History.read(trial.folder).epochs) for trial in trials] == [1] * len(trials)


def test_an_exception_comes_after_the_record_of_the_checkpoint_that_was_written(
    held: Event, tmp_path: Path
) -> None:
    trial = begin(trial_settings(), tmp_path)
    calls = count()

    def fail(*_: object) -> None:
        if next(calls) == STEPS:  # in the second epoch
            Timer(0.2, held.set).start()
            raise ZeroDivisionError("of its own")

    trial.network.register_forward_pre_hook(fail)
    records = trial.train(never)
    assert next(records).epoch == 1
    with pytest.raises(ZeroDivisionError):
        next(records)
