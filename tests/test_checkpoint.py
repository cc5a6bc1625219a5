"""Checkpoints that are damaged, of another kind, or find no room: never a wrong resume.

``ADARELU_FUZZ=2000`` damages 2,000 of them.
"""

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from adarelu_sweep.launching.launcher import Gone, Said, Slot
from adarelu_sweep.launching.local import LocalLauncher, LocalWorker
from adarelu_sweep.launching.messages import (
    EpochDone,
    Failed,
    Finished,
    Interrupted,
    Message,
    Note,
    Ready,
    Started,
    Stop,
    Task,
    TrialOrder,
)
from adarelu_sweep.reporting.study_report import study_report
from adarelu_sweep.studies.schema import ExecutionSettings
from adarelu_sweep.tracking.study_report import StudyReport
from adarelu_sweep.training.checkpoint import Checkpoint, load_checkpoint, save_outcome
from adarelu_sweep.training.description import Description
from adarelu_sweep.training.history import (
    CHECKPOINT,
    CONFUSION_MATRIX,
    DAMAGED,
    HISTORY,
    MODEL,
    PREVIOUS,
    EpochRecord,
    History,
)
from adarelu_sweep.training.inference import load_classifier
from adarelu_sweep.training.snapshot import Snapshot
from tests.reports import make_results, make_study
from tests.trials import (
    ENDLESS,
    begin,
    digest,
    fingerprint,
    measured,
    never,
    train,
    trial_settings,
)

EXAMPLES = int(os.environ.get("ADARELU_FUZZ", "150"))
fuzzed = hypothesis_settings(max_examples=EXAMPLES, deadline=None, print_blob=True)
SMALL = {"name": "tests.own_parts:Normed"}
SETTINGS = trial_settings(epochs=5)


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_worker() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A checkpoint is what two functions write and read; a tiny network does.


class Tiny:
    """A network with its optimizer and history, of the form that a trial has."""

    def __init__(self, seed: int = 0, width: int = 4, epochs: int = 0) -> None:
        torch.manual_seed(seed)
        layers = nn.Linear(3, width), nn.BatchNorm1d(width), nn.PReLU(), nn.Linear(width, 2)
        self.network = nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.history = History()
        for _ in range(epochs):
            self.train()

    def train(self) -> None:
        self.optimizer.zero_grad()
        self.network(torch.randn(5, 3)).square().mean().backward()
        self.optimizer.step()
        epoch = len(self.history.epochs) + 1
        metrics = {"test/loss": 0.25 / epoch, "test/accuracy": 10.0 * epoch}
        self.history.epochs.append(
            EpochRecord(epoch=epoch, timestamp=1000 + epoch, metrics=metrics)
        )

    def save(self, folder: Path) -> None:
        Checkpoint(self.network, self.optimizer, self.history).write(folder)

    def load(self, folder: Path) -> list[str]:
        self.history, notes = load_checkpoint(folder, self.network, self.optimizer, SETTINGS)
        return notes

    @property
    def tensors(self) -> dict[str, Tensor]:
        state = {
            f"optimizer/{index}/{name}": value
            for index, kept in self.optimizer.state_dict()["state"].items()
            for name, value in kept.items()
        }
        return {f"network/{k}": v for k, v in self.network.state_dict().items()} | state

    @property
    def state(self) -> tuple[str, str]:
        return self.history.model_dump_json(), digest(self.tensors)


def written(epochs: int) -> tuple[bytes, tuple[str, str]]:
    """Return the checkpoint after so many epochs, and the state that it holds."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = Tiny(epochs=epochs)
        tiny.save(Path(folder))
        return (Path(folder) / CHECKPOINT).read_bytes(), tiny.state


CURRENT, BEFORE = written(3), written(2)
START = Tiny().state


def changed(tensors: Callable[[dict[str, Tensor]], Any]) -> bytes:
    """Return a checkpoint that is whole, and not one of this trial."""
    tiny = Tiny(epochs=3)
    kept = tiny.tensors
    tensors(kept)
    return b"".join(Snapshot(kept).packed({HISTORY: tiny.history.model_dump_json()}))


def with_history(text: str, **more: str) -> bytes:
    """Return an unsealed checkpoint, such as earlier versions wrote, with this for a history."""
    return save({k: v.clone() for k, v in Tiny(epochs=3).tensors.items()}, {HISTORY: text} | more)


OLD = with_history(CURRENT[1][0])


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


WEIGHT, MOMENT = "network/0.weight", "optimizer/0/exp_avg"
EPOCHS_OF_ANOTHER = Tiny(epochs=3).history.model_copy(deep=True)
EPOCHS_OF_ANOTHER.epochs.reverse()
STRANGE = {
    "empty": b"",
    "no header": b"\0" * 8,
    "header longer than the file": b"\xff" * 8 + CURRENT[0][8:],
    "another network": b"".join(
        Snapshot(Tiny(width=5, epochs=3).tensors).packed({HISTORY: CURRENT[1][0]})
    ),
    "a weight less": changed(lambda kept: kept.pop(WEIGHT)),
    "a weight more": changed(lambda kept: kept.update({"network/more": torch.zeros(2)})),
    "another shape": changed(lambda kept: kept.update({WEIGHT: kept[WEIGHT].T.contiguous()})),
    "another type": changed(lambda kept: kept.update({WEIGHT: kept[WEIGHT].double()})),
    "a state less": changed(lambda kept: kept.pop(MOMENT)),
    "a state of another shape": changed(lambda kept: kept.update({MOMENT: torch.zeros(7)})),
    "a state of another type": changed(lambda kept: kept.update({MOMENT: kept[MOMENT].half()})),
    "a state of no parameter": changed(lambda kept: kept.update({"optimizer/x/a": torch.ones(1)})),
    "no tensors": b"".join(Snapshot({}).packed({HISTORY: CURRENT[1][0]})),
    "no history": b"".join(Snapshot(Tiny(epochs=3).tensors).packed({"other": "{}"})),
    "an empty history": b"".join(Snapshot(Tiny(epochs=3).tensors).packed({HISTORY: "{}"})),
    "a history out of order": with_history(EPOCHS_OF_ANOTHER.model_dump_json()),
    "too long a history": b"".join(
        Snapshot(Tiny(epochs=5).tensors).packed({HISTORY: Tiny(epochs=5).history.model_dump_json()})
    ),
    "no JSON": with_history("{"),
    "a list for a history": with_history("[]"),
    "no number for an epoch": with_history('{"epochs": [{"epoch": "x"}]}'),
    "a bomb of a history": with_history('{"epochs": ' + "[" * 100_000),
    "a bomb of a header": with_header(b"[" * 100_000),
    "a bomb of an object": with_header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "an endless number": with_header(b'{"__metadata__":{"history":"{}"},"a":' + b"9" * 9999 + b"}"),
    "infinity": with_header(b'{"__metadata__":{"history":"{}"},"a":{"data_offsets":[0,Infinity]}}'),
    "no text for a header": with_header(b"\xff\xfe\xfd"),
    "a null": with_header(b"null"),
    "seals that are none": with_header(b'{"__metadata__":{"header":"","data":"","history":"{}"}}'),
    "seals taken away": save(
        {k: v.clone() for k, v in Tiny(1, epochs=3).tensors.items()},
        {HISTORY: CURRENT[1][0], "data": "0" * 64},
    ),
}

positions = st.floats(0, 1, exclude_max=True)
garbage = st.binary(min_size=1, max_size=100)


def flipped(content: bytes, places: list[tuple[float, int]]) -> bytes:
    altered = bytearray(content)
    for place, bit in places:
        altered[int(place * len(content))] ^= 1 << bit
    return bytes(altered)


def spliced(content: bytes, place: float, removed: int, new: bytes) -> bytes:
    at = int(place * len(content))
    return content[:at] + new + content[at + removed :]


def damages(content: bytes) -> st.SearchStrategy[bytes]:
    """Ways to damage a file; the first bytes are as likely to be hit as the many that follow."""
    place = positions | positions.map(lambda at: at * 300 / len(content))
    bits = st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=8)
    return st.one_of(
        place.map(lambda at: content[: int(at * len(content))]),
        bits.map(lambda places: flipped(content, places)),
        st.builds(spliced, st.just(content), place, st.integers(0, 200), st.binary(max_size=100)),
        st.builds(spliced, st.just(content), place, st.just(0), garbage),
        st.builds(lambda size: size.to_bytes(8, "little") + content[8:], st.integers(0, 2**64 - 1)),
        garbage,
        garbage.map(with_header),
        st.sampled_from(sorted(STRANGE)).map(STRANGE.__getitem__),
    )


untouched = st.just(CURRENT[0])
missing = st.none()


@given(
    current=damages(CURRENT[0]) | untouched | missing,
    previous=st.just(BEFORE[0]) | damages(BEFORE[0]) | missing,
)
@fuzzed
def test_whatever_is_damaged_nothing_wrong_is_taken_up(
    current: bytes | None, previous: bytes | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in ((CHECKPOINT, current), (PREVIOUS, previous)):
            if content is not None:
                (folder / file).write_bytes(content)
        expected, told = START, False
        for content, (whole, state) in ((current, CURRENT), (previous, BEFORE)):
            if content == whole:
                expected = state
                break
            told |= content is not None
        histories = {json_of for json_of, _ in (CURRENT[1], BEFORE[1], START)}
        before = History.read(folder).model_dump_json()  # it verifies the header only
        assert before in histories | {h.model_dump_json() for h in STRANGE_HISTORIES}

        tiny = Tiny()
        notes = tiny.load(folder)
        assert tiny.state == expected
        assert len(notes) == told
        assert all("\n" not in note and "damaged" in note for note in notes)
        # The supervisor's process and the next attempt find the same, and go on from there.
        assert History.read(folder) == tiny.history
        tiny.train()
        tiny.save(folder)
        again = Tiny()
        assert again.load(folder) == []
        assert again.state == tiny.state


STRANGE_HISTORIES = [History(), Tiny(epochs=5).history]
"""Those of the strange ones whose header is as whole as any."""


@given(damages(OLD))
@fuzzed
def test_a_damaged_file_of_an_earlier_version_is_no_traceback(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CHECKPOINT).write_bytes(content)
        History.read(folder)
        tiny = Tiny()
        notes = tiny.load(folder)
        assert notes or tiny.history.epochs
        assert History.read(folder) == tiny.history


def test_a_file_of_an_earlier_version_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(OLD)
    tiny = Tiny()
    assert tiny.load(tmp_path) == []
    assert tiny.state == CURRENT[1]


@pytest.mark.parametrize("shape", [(4,), ()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_parameter_of_another_type_than_its_step_count(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """As an activation of a user's own may have; Adam counts steps in float32."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(shape, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale.to(x.dtype)

    def scaled() -> Tiny:
        tiny = Tiny()
        tiny.network.insert(2, Scaled())
        tiny.optimizer = torch.optim.Adam(tiny.network.parameters(), lr=0.01)
        return tiny

    trained, again = scaled(), scaled()
    trained.train()
    trained.save(tmp_path)
    assert again.load(tmp_path) == []
    assert again.state == trained.state


def test_every_single_byte_counts(tmp_path: Path) -> None:
    """Not a sample: each byte of a small file, which holds no weights."""
    save_outcome(tmp_path, History(epochs=Tiny(epochs=1).history.epochs, outcome="complete"))
    content = (tmp_path / CHECKPOINT).read_bytes()
    assert Tiny().load(tmp_path) == []
    for place in range(len(content)):
        (tmp_path / CHECKPOINT).write_bytes(flipped(content, [(place / len(content), place % 8)]))
        assert History.read(tmp_path) == History(), place


def test_what_a_kill_between_two_renames_leaves(tmp_path: Path) -> None:
    (tmp_path / PREVIOUS).write_bytes(BEFORE[0])
    (tmp_path / f"{CHECKPOINT}.tmp").write_bytes(CURRENT[0][:100])
    tiny = Tiny()
    assert tiny.load(tmp_path) == []
    assert tiny.state == BEFORE[1]
    tiny.train()
    tiny.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, PREVIOUS}
    assert (tmp_path / PREVIOUS).read_bytes() == BEFORE[0]


def test_an_outcome_needs_no_weights_and_leaves_nothing_else(tmp_path: Path) -> None:
    for epochs in (1, 2, 3):
        Tiny(epochs=epochs).save(tmp_path)
    (tmp_path / PREVIOUS).write_bytes(b"damaged")
    (tmp_path / CHECKPOINT).write_bytes(b"damaged")
    (tiny := Tiny()).load(tmp_path)
    assert (tmp_path / DAMAGED).exists()
    tiny.train()
    tiny.history.outcome = "pruned"
    save_outcome(tmp_path, tiny.history)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT}
    assert load_file(tmp_path / CHECKPOINT) == {}
    (tmp_path / PREVIOUS).write_bytes(b"a kill came before it was removed")
    assert (again := Tiny()).load(tmp_path) == []
    assert again.history == tiny.history
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT}


# Which weights are kept

EPOCHS = 4


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, Path]]]:
    """An undisturbed trial that keeps its best: weights and folder after every epoch."""
    folder = tmp_path_factory.mktemp("course")
    trial = begin(best_settings(), folder / "trial", keep="best")
    course = []
    for record in trial.train(never, one_by_one=True):
        place = folder / str(record.epoch)
        shutil.copytree(folder / "trial", place)
        course.append((digest(trial.network.state_dict()), place))
    return course


def best_settings() -> Any:
    optimizer = {"name": "sgd", "lr": 0.15, "momentum": 0.9}
    return trial_settings(SMALL, "relu", optimizer, epochs=EPOCHS, seed=0)


def accuracies(folder: Path) -> list[float]:
    return [record.metrics["test/accuracy"] for record in History.read(folder).epochs]


def best_epoch(folder: Path) -> int:
    reached = accuracies(folder)
    return reached.index(max(reached)) + 1


def test_the_best_epoch_is_kept(course: list[tuple[str, Path]]) -> None:
    for _, folder in course:
        best = best_epoch(folder)
        described = Description.read(folder)
        assert (described.epoch, described.accuracy) == (best, max(accuracies(folder)))
        assert digest(load_file(folder / MODEL)) == course[best - 1][0]
    bests = [best_epoch(folder) for _, folder in course]
    assert 1 < bests[-1] < EPOCHS, f"choose another seed: {accuracies(course[-1][1])}"


@pytest.mark.parametrize("killed", range(EPOCHS))
def test_the_best_epoch_is_kept_through_every_kill(
    course: list[tuple[str, Path]], tmp_path: Path, killed: int
) -> None:
    """Killed in an epoch; and after its model was written, before its checkpoint was."""
    final = course[-1][1]
    for model_came in (False, True):
        folder = tmp_path / f"{model_came}"
        folder.mkdir()
        if killed:
            shutil.copytree(course[killed - 1][1], folder, dirs_exist_ok=True)
        if model_came:
            shutil.copy(course[killed][1] / MODEL, folder / MODEL)
        trial = begin(best_settings(), folder, keep="best")
        assert len(trial.history.epochs) == killed
        list(trial.train(never))
        assert measured(trial.history) == measured(History.read(final))
        assert (folder / MODEL).read_bytes() == (final / MODEL).read_bytes()
        assert {path.name for path in folder.iterdir()} == {CHECKPOINT, MODEL, CONFUSION_MATRIX}
        if killed == EPOCHS - 1 or not killed:
            break  # the same once more


def test_the_result_stays_that_of_the_last_epoch(course: list[tuple[str, Path]]) -> None:
    final = course[-1][1]
    assert History.read(final).epochs[-1].metrics["test/accuracy"] < max(accuracies(final))


def test_a_trial_that_is_pruned_or_diverges_keeps_what_is_asked_for(
    course: list[tuple[str, Path]], tmp_path: Path
) -> None:
    for keep, model in (("best", best_epoch(course[-2][1])), ("last", EPOCHS - 1), ("none", None)):
        folder = tmp_path / keep
        shutil.copytree(course[-2][1], folder)
        trial = begin(best_settings(), folder, keep=keep)
        trial.prune()
        assert list(trial.train(never)) == []
        assert History.read(folder).outcome == "pruned"
        if model is None:
            assert not (folder / MODEL).exists()
        else:
            assert Description.read(folder).epoch == model
            assert digest(load_file(folder / MODEL)) == course[model - 1][0]
    diverging = trial_settings(SMALL, "relu", ENDLESS)
    for keep in ("best", "last", "none"):
        folder = tmp_path / f"diverged-{keep}"
        trial = begin(diverging, folder, keep=keep)
        list(trial.train(never))
        assert trial.history.outcome == "diverged"
        assert (folder / MODEL).exists() == (keep != "none")
        assert not (folder / PREVIOUS).exists()


def test_a_damaged_model_is_an_error_that_says_so(
    course: list[tuple[str, Path]], tmp_path: Path
) -> None:
    load_classifier(course[-1][1])
    content = (course[-1][1] / MODEL).read_bytes()
    for place in (0.0, 0.001, 0.01, 0.5, 0.99999):
        for altered in (flipped(content, [(place, 3)]), content[: int(place * len(content))]):
            (tmp_path / MODEL).write_bytes(altered)
            with pytest.raises(ValueError, match=r"altered|cut short"):
                load_classifier(tmp_path)
    weights = load_file(course[-1][1] / MODEL)
    described = Description.read(course[-1][1]).as_metadata()
    save_file(weights, tmp_path / MODEL, described)  # as an earlier version kept it
    load_classifier(tmp_path)
    # A trial that finds it damaged keeps the best of what it has.
    shutil.copytree(course[1][1], tmp_path / "trial")
    (tmp_path / "trial" / MODEL).write_bytes(content[:-1])
    trial = begin(best_settings(), tmp_path / "trial", keep="best")
    list(trial.train(never))
    described_again = Description.read(tmp_path / "trial")
    assert described_again.epoch is not None
    assert described_again.epoch >= 2


@pytest.mark.long
def test_what_is_said_of_the_model_that_is_registered(
    course: list[tuple[str, Path]], tmp_path: Path
) -> None:
    def told(keep: str, folder: Path) -> StudyReport:
        study = make_study(seeds=1).model_copy(update={"execution": ExecutionSettings(keep=keep)})
        results = make_results(study)
        arms = [
            replace(arm, trials=[replace(trial, place=folder) for trial in arm.trials])
            for arm in results.arms
        ]
        return study_report(replace(results, arms=arms), tmp_path)

    none = told("none", tmp_path)
    assert none.best is None
    assert none.remark is not None
    assert "execution.keep" in none.remark
    plain = told("last", course[-1][1])
    assert plain.best is not None
    assert plain.remark is None
    without = told("best", tmp_path).best  # there is no model to ask
    assert without is not None
    assert without.description == plain.best.description
    best = told("best", course[-1][1]).best
    assert best is not None
    number, accuracy = best_epoch(course[-1][1]), max(accuracies(course[-1][1]))
    assert best.description.startswith(plain.best.description)
    assert f"epoch, number {number}, with a test accuracy of {accuracy:.2f} %" in best.description


# In a worker


class Bench:
    """A worker, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inbox: SimpleQueue[Said | Gone] = SimpleQueue()
        self._launcher = LocalLauncher(self._inbox.put, folder / "logs")
        self.worker: LocalWorker = self._launcher.start(Slot(0, 1))
        self.heard: list[Message] = []
        self.hear(Ready)

    def send(self, epochs: int, **order: Any) -> None:
        settings = trial_settings(SMALL, "relu", epochs=epochs)
        place = str(self.folder / "trial")
        trial = TrialOrder(number=0, settings=settings, folder=place, threads=1, **order)
        self.worker.send(Task(trials=[trial], data_origin=str(self.folder)))

    def hear(self, kind: type[Message]) -> Any:
        while True:
            said = self._inbox.get(timeout=120)
            assert isinstance(said, Said), said
            self.heard.append(said.message)
            assert not isinstance(said.message, Failed), said.message
            if isinstance(said.message, kind):
                return said.message

    def silent(self, seconds: float) -> bool:
        try:
            said = self._inbox.get(timeout=seconds)
        except Empty:
            return True
        assert isinstance(said, Said)
        assert not isinstance(said.message, EpochDone | Finished), said
        return self.silent(seconds)

    def limit(self, size: int) -> None:
        """Let no file of the worker grow beyond so many bytes, as a full disk would."""
        process = psutil.Process(self.worker.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def end(self) -> None:
        self.worker.kill()
        self._launcher.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.end()


@pytest.mark.long
def test_on_a_full_disk_training_goes_on_and_waits_at_its_end(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    bench.send(epochs=3)
    bench.hear(Started)
    bench.limit(1000)
    note = bench.hear(Note)
    assert note.trial == 0
    assert "no room" in note.text
    assert "\n" not in note.text
    assert bench.silent(3)  # trained to its end, and nothing is said that is not on the disk
    assert {path.name for path in folder.iterdir()} == {CONFUSION_MATRIX}
    bench.limit(resource.RLIM_INFINITY)
    finished = bench.hear(Finished)
    assert [m.record.epoch for m in bench.heard if isinstance(m, EpochDone)] == [1, 2, 3]
    assert len([m for m in bench.heard if isinstance(m, Note)]) == 1  # told once
    assert History.read(folder) == finished.history
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT, MODEL, CONFUSION_MATRIX}


@pytest.mark.long
def test_who_waits_for_room_can_be_stopped_and_goes_on_where_it_was(
    bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    bench.send(epochs=3, awaits_decision=True)  # so it waits after every epoch
    started = bench.hear(Started)
    assert not started.awaits_decision
    bench.limit(1000)
    bench.hear(Note)
    assert bench.silent(2)
    bench.worker.send(Stop())
    bench.hear(Interrupted)
    assert not any(isinstance(m, EpochDone) for m in bench.heard)
    assert [path.name for path in folder.iterdir()] == []
    bench.end()

    settings = trial_settings(SMALL, "relu", epochs=3)
    undisturbed = train(settings, tmp_path / "undisturbed")
    assert fingerprint(train(settings, folder)) == fingerprint(undisturbed)


@pytest.mark.long
def test_a_worker_tells_what_was_damaged_and_trains_it_again(bench: Bench, tmp_path: Path) -> None:
    settings, folder = trial_settings(SMALL, "relu", epochs=3), tmp_path / "trial"
    trial = begin(settings, folder)
    for record in trial.train(never, one_by_one=True):
        if record.epoch == 2:
            break
    content = (folder / CHECKPOINT).read_bytes()
    (folder / CHECKPOINT).write_bytes(flipped(content, [(0.9, 0)]))
    assert len(History.read(folder).epochs) == 2  # its header is whole
    bench.send(epochs=3)
    started = bench.hear(Started)
    assert len(started.history.epochs) == 1
    assert started.history == History.read(folder)
    assert started.notes == [
        "checkpoint.safetensors is damaged (its data was altered): back to the one before, 1 epoch"
    ]
    assert (folder / DAMAGED).exists()
    finished = bench.hear(Finished)
    bench.end()
    undisturbed = train(settings, tmp_path / "undisturbed")
    assert measured(finished.history) == measured(undisturbed.history)
    assert (folder / MODEL).read_bytes() == (tmp_path / "undisturbed" / MODEL).read_bytes()
    assert not (folder / DAMAGED).exists()
