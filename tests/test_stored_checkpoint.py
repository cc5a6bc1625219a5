"""Trials that are taken up from a store which fails, or hangs, while they are."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from adarelu_sweep.launching.messages import FromWorker, Interrupted, Progress
from adarelu_sweep.launching.tasks import TaskRunner
from adarelu_sweep.storing import objects
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import Place, place_at, write_whole
from adarelu_sweep.training.checkpoint import Checkpoint, load_checkpoint
from adarelu_sweep.training.history import (
    CHECKPOINT,
    DAMAGED,
    MODEL,
    PREVIOUS,
    EpochRecord,
    History,
)
from tests.object_store import Fault, ObjectStore
from tests.test_tasks import Supervisor, pack
from tests.trials import trial_settings

READS = ("GET", "HEAD")


def tiny() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Linear(3, 2)
    return network, torch.optim.SGD(network.parameters())


def damaged_trial(store: ObjectStore) -> Place:
    """A trial in the store whose newest checkpoint is damaged, and the one before is not."""
    folder = place_at(store.address) / "trial"
    metrics = {"test/loss": 1.0, "test/accuracy": 50.0}
    record = EpochRecord(epoch=1, timestamp=1, metrics=metrics)
    for _ in range(2):
        Checkpoint(*tiny(), History(epochs=[record])).write(folder)
    write_whole(folder / CHECKPOINT, (folder / CHECKPOINT).read_bytes()[:-1])
    return folder


NOTE = (
    "checkpoint.safetensors is damaged (it is cut short or too long): back to the one before, "
    "1 epoch"
)


def names(store: ObjectStore) -> set[str]:
    return {key.rpartition("/")[2] for key in store.contents()}


def test_what_was_damaged_is_told_though_the_store_fails_in_between(
    reached_store: ObjectStore,
) -> None:
    folder = damaged_trial(reached_store)
    settings = trial_settings()
    for fault in (Fault("error", methods=READS, keys=PREVIOUS), Fault("error", methods=["PUT"])):
        with reached_store.failing(fault), pytest.raises(StorageError):
            load_checkpoint(folder, *tiny(), settings)
    history, notes = load_checkpoint(folder, *tiny(), settings)
    assert (len(history.epochs), notes) == (1, [NOTE])
    assert names(reached_store) == {PREVIOUS, DAMAGED}


def test_a_change_that_hangs_is_waited_for_with_signs_of_life(
    reached_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks to stop meanwhile: another attempt may come, and nothing may change under it."""
    monkeypatch.setattr(objects, "_READ_TIMEOUT", 3)
    folder, signs = damaged_trial(reached_store), 0

    def stop_requested() -> bool:
        nonlocal signs
        hangs = reached_store.happened["PUT", "hang"] > 0
        signs += hangs
        return hangs

    with reached_store.failing(Fault("hang", next=1, methods=("PUT",))):
        _, notes = load_checkpoint(folder, *tiny(), trial_settings(), stop_requested)
    assert signs >= 2
    assert notes == [NOTE]
    assert names(reached_store) == {PREVIOUS, DAMAGED}


@pytest.mark.parametrize(("keep", "hanging"), [("last", CHECKPOINT), ("best", MODEL)])
def test_a_trial_that_waits_for_a_store_that_hangs_gives_signs_and_stops(
    reached_store: ObjectStore, tmp_path: Path, keep: str, hanging: str
) -> None:
    """Long before the store's client gives the attempt up."""
    heard_at: list[float] = []

    def is_third(_: FromWorker) -> bool:
        heard_at.append(time.monotonic())
        return len(heard_at) == 3

    supervisor = Supervisor(until=is_third)
    task = pack(tmp_path, 1)
    changed = {"folder": f"{reached_store.address}/trial", "keep": keep}
    orders = [order.model_copy(update=changed) for order in task.trials]
    task = task.model_copy(update={"trials": orders, "heartbeat": 0.5})
    with reached_store.failing(Fault("hang", methods=READS, keys=hanging)):
        TaskRunner(torch.device("cpu")).run(task, supervisor)
    assert supervisor.heard == [*[Progress()] * 3, Interrupted(trial=1)]
    assert heard_at[-1] - heard_at[0] < 10
