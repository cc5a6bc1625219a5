"""Trials that take turns, and lanes that serve one trial after another: the numbers are the same.

Everything here trains real, tiny networks on the built-in digits.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.training import repeating
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.pack import Pack, PackError
from adarelu_sweep.training.repeating import Repeated
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.stopping import StopRequestedError
from tests.recording import record
from tests.trials import (
    ENDLESS,
    EPOCHS,
    OPTIMIZER_TABLES,
    STEPS,
    after,
    begin,
    digits,
    fingerprint,
    never,
    train,
    trial_settings,
)

NOISY = {"name": "tests.own_parts:Noisy"}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

pytestmark = pytest.mark.usefixtures("one_thread")


def nothing(_trial: Trial, _text: str) -> None:
    pass


def train_together(
    trials: list[Trial], stop_requested: Callable[[], bool] = never
) -> list[tuple[int, int | None]]:
    """Train a pack; return what it yielded: the seed, and the epoch or None."""
    said = Pack(trials).train(stop_requested, nothing)
    return [(trial.settings.seed, record and record.epoch) for trial, record in said]


# The numbers of each


PARTS: list[tuple[Any, dict[str, Any]]] = [
    ("adarelu", {}),
    ({"name": "adarelu", "eval_mode": "running"}, {"precision": "bf16"}),
    (NOISY, {"network": "resnet18"}),
    ("prelu", {"optimizer": "adamw", "augmentation": "crop_flip"}),
]


@pytest.mark.parametrize(("activation", "options"), PARTS)
def test_each_has_the_numbers_that_it_has_alone(
    tmp_path: Path, activation: Any, options: dict[str, Any]
) -> None:
    several = [trial_settings(activation=activation, seed=seed, **options) for seed in (1, 2, 3)]
    alone = [
        fingerprint(train(settings, tmp_path / f"alone-{settings.seed}")) for settings in several
    ]
    assert len({each[2] for each in alone}) == len(alone)
    together = [begin(settings, tmp_path / f"pack-{settings.seed}") for settings in several]
    # One of them is an epoch ahead, as after an interruption.
    next(together[1].train(never, one_by_one=True))
    together[1] = begin(several[1], tmp_path / "pack-2")
    said = train_together(together)
    assert [fingerprint(trial) for trial in together] == alone
    first, *_ = said
    assert first == (2, 2) or first[1] == 1
    assert sorted(said, key=str) == sorted(
        [
            *((seed, epoch) for seed in (1, 2, 3) for epoch in range(1 + (seed == 2), EPOCHS + 1)),
            *((seed, None) for seed in (1, 2, 3)),
        ],
        key=str,
    )


def test_the_noise_of_one_is_not_that_of_another(tmp_path: Path) -> None:
    """The layers of a pack draw from the same global generator, each in a stream of its own."""
    settings = trial_settings(activation=NOISY)
    same = [begin(settings, tmp_path / name) for name in ("one", "two")]
    train_together(same)
    assert fingerprint(same[0]) == fingerprint(same[1])


def test_one_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    steady = trial_settings(seed=1)
    expected = fingerprint(train(steady, tmp_path / "alone"))
    wild = begin(trial_settings(optimizer=ENDLESS, seed=2), tmp_path / "wild")
    calm = begin(steady, tmp_path / "calm")
    said = train_together([wild, calm])
    assert wild.history.outcome == "diverged"
    assert said[:2] == [(2, 1), (1, 1)]
    assert said[2] == (2, None)
    assert fingerprint(calm) == expected


def test_a_stop_ends_all_and_each_goes_on(tmp_path: Path) -> None:
    several = [trial_settings(seed=seed) for seed in (1, 2)]
    expected = [fingerprint(train(each, tmp_path / f"alone-{each.seed}")) for each in several]
    trials = [begin(each, tmp_path / str(each.seed)) for each in several]
    with pytest.raises(StopRequestedError):
        train_together(trials, after(2 * STEPS + 3))
    assert [len(trial.history.epochs) for trial in trials] == [1, 1]
    again = [begin(each, tmp_path / str(each.seed)) for each in several]
    train_together(again)
    assert [fingerprint(trial) for trial in again] == expected


def test_the_one_whose_code_raises_is_named(tmp_path: Path) -> None:
    trials = [begin(trial_settings(seed=seed), tmp_path / str(seed)) for seed in (1, 2, 3)]
    calls = count()

    def fail(*_: object) -> None:
        if next(calls) == STEPS + 1:
            raise ZeroDivisionError("of its own")

    trials[1].network.register_forward_pre_hook(fail)
    with pytest.raises(PackError) as caught:
        train_together(trials)
    assert caught.value.trial is trials[1]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [len(trial.history.epochs) for trial in trials] == [1, 1, 1]


# A lane that serves several trials


@pytest.mark.parametrize("optimizer", OPTIMIZER_TABLES)
@pytest.mark.parametrize("activation", ["prelu", {"name": "adarelu", "eval_mode": "running"}])
def test_a_lane_starts_over(tmp_path: Path, optimizer: str, activation: Any) -> None:
    """On the CPU each trial has a lane of its own; here one is reused as it is on a GPU."""
    first, second = (
        trial_settings("resnet18", activation, optimizer, seed=seed) for seed in (1, 2)
    )
    data = digits(56, 40)
    expected = fingerprint(train(second, tmp_path / "fresh"))
    (tmp_path / "first").mkdir()
    used = Trial(first, data, tmp_path / "first")
    list(used.train(never))
    held = [p.data_ptr() for p in used.network.parameters()]
    (tmp_path / "second").mkdir()
    trial = Trial(second, data, tmp_path / "second", lane=used.lane)
    with pytest.raises(StopRequestedError):
        list(trial.train(after(STEPS + 2)))
    trial = Trial(second, data, tmp_path / "second", lane=used.lane)
    list(trial.train(never))
    assert fingerprint(trial) == expected
    assert [p.data_ptr() for p in trial.network.parameters()] == held


def test_a_lane_on_the_cpu_serves_no_other() -> None:
    settings = trial_settings()
    assert not Lane(settings, digits(56, 40)).serves(settings, digits(56, 40))


# Captured work


def test_repeated_work_on_a_cpu_is_done_as_it_is_written() -> None:
    seen: list[list[int]] = []
    repeated = Repeated(torch.device("cpu"), capture=True)
    for batch in torch.arange(10).split(3):
        repeated(lambda indices: seen.append(indices.tolist()), batch)
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are recorded on the CPU as they are captured on a GPU."""
    monkeypatch.setattr(repeating, "capturing", lambda _device: record)


LONG = {"train_limit": 248, "test_limit": 100, "epochs": 5}


@pytest.mark.parametrize(
    ("network", "activation", "optimizer"),
    [
        ("vgg16_bn", {"name": "adarelu", "eval_mode": "running"}, "sgd"),
        ("vgg16_bn", "prelu", "adam"),
        ("resnet18", "adarelu", "adamw"),
    ],
)
def test_nothing_that_changes_is_captured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: str,
    activation: Any,
    optimizer: str,
) -> None:
    """Learning rate, draws and order of each epoch reach the steps that are done again."""
    schedule = {"name": "step", "step_size": 1, "gamma": 0.5}
    options = LONG | {"augmentation": "crop_flip", "schedule": schedule}
    settings = trial_settings(network, activation, optimizer, **options)
    expected = fingerprint(with_tensor_rate(begin(settings, tmp_path / "plain")))
    probes = [record.probes for record in begin(settings, tmp_path / "plain").history.epochs]
    monkeypatch.setattr(repeating, "capturing", lambda _device: record)
    trial = begin(settings, tmp_path / "captured")
    assert fingerprint(with_tensor_rate(trial)) == expected
    assert [record.probes for record in trial.history.epochs] == probes
    # 11 batches, the last of them short: its fourth comes in the fourth epoch.
    assert trial.lane._step._captured.keys() == {24, 8}
    assert trial.lane._evaluator._batch._captured.keys() == {24, 4}


def with_tensor_rate(trial: Trial) -> Trial:
    """Train with the learning rate in a tensor, and fused, as it is on a GPU."""
    for group in trial.optimizer.param_groups:
        group["lr"], group["fused"] = torch.tensor(group["lr"]), True
    list(trial.train(never))
    return trial


def test_what_waits_for_the_device_is_done_as_it_is_written(captured: None) -> None:
    total = torch.zeros((), dtype=torch.int64)

    def work(indices: Tensor) -> None:
        total.add_(int(indices.sum()))

    repeated = Repeated(torch.device("cpu"), capture=True)
    batch = torch.ones(5, dtype=torch.int64)
    for _ in range(3):
        repeated(work, batch)
    with pytest.warns(UserWarning, match="trains slower, because it cannot be captured"):
        repeated(work, batch)
    for _ in range(2):
        repeated(work, batch)
    assert int(total) == 30
    assert not repeated._captured


@pytest.mark.filterwarnings("ignore:it trains slower")
def test_a_network_that_cannot_be_captured_has_all_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Votes of the step that was given up do not count."""
    settings = trial_settings({"name": "tests.own_parts:waits"}, **LONG)
    plain = train(settings, tmp_path / "plain")
    monkeypatch.setattr(repeating, "capturing", lambda _device: record)
    tried = train(settings, tmp_path / "tried")
    assert fingerprint(tried) == fingerprint(plain)
    probes = [record.probes for record in tried.history.epochs]
    assert probes == [record.probes for record in plain.history.epochs]
    assert all("negative_branch_rate" in one for epoch in probes for one in epoch.values())


@pytest.mark.parametrize(
    ("activation", "version", "size"),
    [("adarelu", "2.11.0", 2), (NOISY, "2.11.0", 0), (NOISY, "2.15.0", 2)],
)
def test_what_may_draw_noise_is_captured_from_torch_2_15_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activation: Any, version: str, size: int
) -> None:
    """The graphs of several streams share their random numbers before."""
    monkeypatch.setattr(repeating, "capturing", lambda _device: record)
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    trial = begin(trial_settings(activation=activation, **LONG), tmp_path / "one")
    list(with_tensor_rate(trial).train(never))
    assert len(trial.lane._step._captured) == size


def on_cuda(settings: TrialSettings, folder: Path, lane: Lane | None = None) -> Trial:
    folder.mkdir(parents=True, exist_ok=True)
    return Trial(settings, cuda_digits(), folder, lane=lane)


_held: list[ResidentDataset] = []


def cuda_digits() -> ResidentDataset:
    if not _held:
        _held.append(ResidentDataset.load("digits", Path(), "cuda", 248, 100))
    return _held[0]


def cuda_settings(seed: int = 1, **options: Any) -> TrialSettings:
    # 11 batches an epoch, the last one short: captured from the fourth on, the last in epoch 4.
    return trial_settings(seed=seed, train_limit=248, test_limit=100, **({"epochs": 6} | options))


def final(trial: Trial) -> tuple[Any, ...]:
    metrics = [
        {k: v for k, v in record.metrics.items() if k.startswith(("train/", "test/"))}
        for record in trial.history.epochs
    ]
    weights = {name: value.cpu() for name, value in trial.network.state_dict().items()}
    return metrics, [record.probes for record in trial.history.epochs], weights


def assert_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert one[:2] == other[:2]
    for name, value in one[2].items():
        assert torch.equal(value, other[2][name]), name


@pytest.fixture
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("optimizer", OPTIMIZER_TABLES)
@pytest.mark.parametrize("network", ["vgg16_bn", "resnet18"])
def test_captured_steps_give_the_numbers_of_plain_ones(
    tmp_path: Path,
    deterministic: None,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    network: str,
) -> None:
    settings = cuda_settings(
        network=network, optimizer=optimizer, augmentation="crop_flip", deterministic=True
    )
    captured = on_cuda(settings, tmp_path / "captured")
    list(captured.train(never))
    assert captured.lane._step._captured.keys() == {24, 8}
    monkeypatch.setattr("adarelu_sweep.training.repeating._WARM_UP", 10**9)
    plain = on_cuda(settings, tmp_path / "plain")
    list(plain.train(never))
    assert not plain.lane._step._captured
    assert_same(final(captured), final(plain))


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("activation", ["adarelu", "prelu", NOISY])
def test_a_pack_on_a_gpu_gives_the_numbers_of_each(
    tmp_path: Path, deterministic: None, activation: Any
) -> None:
    several = [
        cuda_settings(seed, activation=activation, deterministic=True) for seed in (1, 2, 3, 4)
    ]
    alone = []
    for settings in several:
        trial = on_cuda(settings, tmp_path / f"alone-{settings.seed}")
        list(trial.train(never))
        alone.append(final(trial))
    trials = [on_cuda(settings, tmp_path / f"pack-{settings.seed}") for settings in several]
    with pytest.raises(StopRequestedError):
        train_together(trials, after(4 * 40))
    again = [on_cuda(settings, tmp_path / f"pack-{settings.seed}") for settings in several]
    train_together(again)
    for trial, expected in zip(again, alone, strict=True):
        assert_same(final(trial), expected)


_IN_ANOTHER_PROCESS = """
import sys, torch
from pathlib import Path
from adarelu_sweep.training.settings import TrialSettings
from tests.test_pack import final, never, on_cuda
settings = TrialSettings.model_validate_json(sys.argv[1])
torch.use_deterministic_algorithms(settings.training.deterministic)
torch.backends.cudnn.benchmark = not settings.training.deterministic
trial = on_cuda(settings, Path(sys.argv[2]) / "alone")
list(trial.train(never))
torch.save(final(trial), Path(sys.argv[2]) / "final")
"""


def alone_in_another_process(settings: TrialSettings, folder: Path) -> tuple[Any, ...]:
    surroundings = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-c", _IN_ANOTHER_PROCESS, settings.model_dump_json(), str(folder)]
    subprocess.run(command, check=True, env=surroundings, cwd=Path(__file__).parents[1])
    numbers: tuple[Any, ...] = torch.load(folder / "final", weights_only=False)
    return numbers


@pytest.mark.gpu
@CUDA
def test_a_pack_on_a_gpu_gives_the_numbers_of_another_process(
    tmp_path: Path, deterministic: None
) -> None:
    """Where cuDNN does not choose by time, as every process does anew."""
    several = [cuda_settings(seed, deterministic=True) for seed in (2, 3, 4)]
    expected = alone_in_another_process(several[1], tmp_path)
    trials = [on_cuda(settings, tmp_path / f"pack-{settings.seed}") for settings in several]
    train_together(trials)
    assert_same(final(trials[1]), expected)


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("network", ["vgg16_bn", "resnet18"])
def test_where_cudnn_chooses_by_time_a_pack_differs_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """The tolerance that ARCHITECTURE.md states, of a first step and of one after it.

    With ReLU: two counts of AdaReLU that are all but equal may come out either way.
    """
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    several = [
        cuda_settings(seed, network=network, activation="relu", batch_size=248, epochs=2)
        for seed in (2, 3, 4)
    ]
    expected, *_ = alone_in_another_process(several[1], tmp_path)
    trials = [on_cuda(settings, tmp_path / f"pack-{settings.seed}") for settings in several]
    train_together(trials)
    measured, *_ = final(trials[1])
    for epoch, tolerance in enumerate((1e-3, 1e-2)):
        loss = expected[epoch]["train/loss"]
        assert measured[epoch]["train/loss"] == pytest.approx(loss, rel=tolerance)


@pytest.mark.gpu
@CUDA
def test_a_lane_on_a_gpu_serves_the_next_seed(tmp_path: Path, deterministic: None) -> None:
    first, second = cuda_settings(1, deterministic=True), cuda_settings(2, deterministic=True)
    used = on_cuda(first, tmp_path / "first")
    list(used.train(never))
    captured = dict(used.lane._step._captured)
    assert used.lane.serves(second, cuda_digits())
    trial = on_cuda(second, tmp_path / "second", used.lane)
    list(trial.train(never))
    assert trial.lane._step._captured == captured
    fresh = on_cuda(second, tmp_path / "fresh")
    list(fresh.train(never))
    assert_same(final(trial), final(fresh))


@pytest.mark.gpu
@CUDA
def test_a_step_does_not_wait_for_the_device(tmp_path: Path) -> None:
    lane = on_cuda(cuda_settings(), tmp_path).lane
    indices: list[Tensor] = [torch.arange(24, device="cuda") for _ in range(8)]
    torch.cuda.synchronize()
    with lane.turn(), lane.probes.training(len(indices)):
        lane._step(lane._update, indices[0])  # cuDNN and the optimizer make what they keep
        torch.cuda.set_sync_debug_mode("error")
        try:
            lane._step(lane._update, indices[1])
            lane._step(lane._update, indices[2])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for each in indices[3:]:
            lane._step(lane._update, each)


@pytest.mark.gpu
@CUDA
def test_work_that_waits_for_the_device_is_not_captured() -> None:
    total = torch.zeros((), device="cuda", dtype=torch.int64)

    def work(indices: Tensor) -> None:
        total.add_(int(indices.sum()))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    repeated = Repeated(torch.device("cuda"), capture=True)
    batch = torch.ones(5, dtype=torch.int64, device="cuda")
    with torch.cuda.stream(stream):
        for _ in range(3):
            repeated(work, batch)
        with pytest.warns(UserWarning, match="cannot be captured"):
            repeated(work, batch)
        for _ in range(2):
            repeated(work, batch)
        assert int(total) == 30
