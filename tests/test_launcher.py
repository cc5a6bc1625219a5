"""Launchers: one contract for every place where workers live, and the worker itself.

Every worker here is a real one, which trains tiny networks on the built-in digits.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest
import torch

from adarelu_sweep._version import __version__
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.launching.launcher import Event, Gone, Launcher, Report, Said, Slot, Worker
from adarelu_sweep.launching.local import LocalLauncher
from adarelu_sweep.launching.messages import (
    EpochDone,
    Failed,
    Finished,
    Interrupted,
    Message,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    TrialOrder,
)
from adarelu_sweep.launching.ray_host import Host
from adarelu_sweep.training.history import MODEL, History
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import TrialSettings
from tests.ray_clusters import CREDENTIALS, Nodes, ray_cluster

PATIENCE = 120  # seconds; nothing here takes that long unless it never comes

Make = Callable[[Report, Path], Launcher]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A Ray cluster of three nodes; one has, it says, a GPU."""
    with ray_cluster() as nodes:
        for gpus in (0, 0, 1):
            nodes.add(cpus=2, gpus=gpus)
        yield nodes


def make_ray_launcher(report: Report, logs: Path, address: str) -> Launcher:
    """Return a launcher that leaves it to Ray where its workers are placed."""
    from adarelu_sweep.launching.nodes import ClusterSlots, Division
    from adarelu_sweep.launching.ray_cluster import RayCluster
    from adarelu_sweep.launching.ray_launcher import RayLauncher

    slots = ClusterSlots(Division(1, most=0))
    return RayLauncher(report, logs, str(logs), RayCluster(address), slots)


def make_launcher(name: str, request: pytest.FixtureRequest) -> Make:
    if name == "local":
        return LocalLauncher
    address = request.getfixturevalue("nodes").address
    return partial(make_ray_launcher, address=address)


# A node's actor and its worker take seconds to come up.
LAUNCHERS = ["local", pytest.param("ray", marks=pytest.mark.long)]


def trial_settings(
    seed: int = 0,
    epochs: int = 2,
    dataset: str = "digits",
    batch_size: int = 16,
    activation: str = "adarelu",
    **data: int,
) -> TrialSettings:
    return TrialSettings.model_validate(
        {
            "dataset": dataset,
            "network": {"name": "vgg16_bn", "width": 1 / 16},
            "activation": activation,
            "seed": seed,
            "data": {"train_limit": 48, "test_limit": 32} | data,
            "training": {
                "epochs": epochs,
                "batch_size": batch_size,
                "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            },
        }
    )


# Some seconds of work, in epochs of many steps.
LONG = trial_settings(seed=7, epochs=6, batch_size=8, train_limit=128)
ENDLESS = trial_settings(epochs=100_000)


def task(*settings: TrialSettings, folder: Path, first: int = 0) -> Task:
    return Task(
        trials=[
            TrialOrder(number=number, settings=each, folder=str(folder / str(number)), threads=1)
            for number, each in enumerate(settings, start=first)
        ],
        data_origin=str(folder),
    )


class Bench:
    """A launcher, and what its workers have said in the order in which it arrived."""

    def __init__(self, make: Make, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.events: list[Said | Gone] = []
        self._inbox: SimpleQueue[Said | Gone] = SimpleQueue()
        self._workers: list[Worker] = []
        self.launcher = make(self._take, self.logs)

    def _take(self, event: Event) -> None:
        if isinstance(event, Said | Gone):  # what is said of places is not every launcher's
            self._inbox.put(event)

    def start(self, index: int = 0, threads: int = 1, gpu: str | None = None) -> Worker:
        worker = self.launcher.start(Slot(index, threads, gpu))
        self._workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self._workers:  # sooner than by asking them, as close() does
            worker.kill()
        self.launcher.close()

    def next(self) -> Said | Gone:
        try:
            event = self._inbox.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"nothing came after {self.events} ({self.log()})") from None
        self.events.append(event)
        return event

    def hear(self, worker: Worker, *kinds: type[Message]) -> Any:
        """Return the next message of one of these kinds, which must come before Gone."""
        while True:
            event = self.next()
            if event.worker is worker:
                assert isinstance(event, Said), (event, self.log())
                if isinstance(event.message, kinds):
                    return event.message
                assert not isinstance(event.message, Failed), event.message

    def gone(self, worker: Worker) -> Gone:
        """Wait until the worker is gone."""
        while not (isinstance(event := self.next(), Gone) and event.worker is worker):
            pass
        return event

    def said(self, worker: Worker) -> list[Message]:
        return [e.message for e in self.events if isinstance(e, Said) and e.worker is worker]

    def rest(self, seconds: float) -> list[Said | Gone]:
        """Return what still comes within some time."""
        deadline = time.monotonic() + seconds
        late = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                late.append(self._inbox.get(timeout=left))
            except Empty:
                break
        self.events += late
        return late

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.logs.glob("*")))


@pytest.fixture(params=LAUNCHERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(make_launcher(request.param, request), tmp_path)
    yield bench
    bench.end()


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes that a process has started, by others or itself."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if WORKER[1] in child.cmdline():
                found.append(child)
    return found


def ends(pid: int) -> bool:
    """Wait for a process to end; return False if it does not."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def find_modules_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def measured(history: History) -> list[tuple[int, dict[str, float]]]:
    varying = {"epoch_seconds", "images_per_second"}
    return [
        (record.epoch, {k: v for k, v in record.metrics.items() if k not in varying})
        for record in history.epochs
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LONG trial that nothing has interrupted, trained in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    data = ResidentDataset.load("digits", folder, "cpu", 128, 32)
    list(Trial(LONG, data, folder).train(lambda: False))
    torch.set_num_threads(before)
    return folder


# The contract


def test_tasks_are_trained_one_after_the_other_in_one_worker(
    bench: Bench, undisturbed: Path
) -> None:
    worker = bench.start()
    ready = bench.hear(worker, Ready)
    assert worker.slot == Slot(0, 1)
    assert ready.host
    assert ready.device == "cpu"  # also where there is a GPU: the slot has none
    environment = psutil.Process(ready.pid).environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "1"
    assert ready.versions["adarelu_sweep"] == __version__
    assert ready.versions["torch"] == str(torch.__version__)

    short = [
        trial_settings(seed=1, epochs=3),
        trial_settings(seed=1, epochs=1, train_limit=32),
        trial_settings(seed=2, epochs=1),
    ]
    tasks = [
        task(short[0], folder=bench.folder),
        task(short[1], folder=bench.folder, first=1),
        task(short[2], folder=bench.folder, first=2),
        task(LONG, folder=bench.folder, first=3),
    ]
    for each in tasks:
        worker.send(each)
        for order in each.trials:
            started = bench.hear(worker, Started)
            assert (started.trial, started.history) == (order.number, History())
            records = []
            for epoch in range(1, order.settings.training.epochs + 1):
                done = bench.hear(worker, EpochDone, Started, Finished)
                assert isinstance(done, EpochDone)
                # The checkpoint came first.
                stored = History.read(Path(order.folder))
                assert stored.epochs[epoch - 1] == done.record
                assert (done.trial, done.record.epoch) == (order.number, epoch)
                records.append(done.record)
            finished = bench.hear(worker, EpochDone, Started, Finished)
            assert isinstance(finished, Finished)
            assert finished.trial == order.number
            assert finished.history == History(epochs=records, outcome="complete")
            assert History.read(Path(order.folder)) == finished.history
            assert (Path(order.folder) / MODEL).exists()
        assert psutil.pid_exists(ready.pid)

    # What went before in the worker does not show in the numbers.
    assert measured(finished.history) == measured(History.read(undisturbed))
    model = (bench.folder / "3" / MODEL).read_bytes()
    assert model == (undisturbed / MODEL).read_bytes()

    # What has its outcome is not trained again.
    worker.send(tasks[0])
    stored = History.read(bench.folder / "0")
    assert bench.hear(worker, Started).history == stored
    assert bench.hear(worker, EpochDone, Finished) == Finished(trial=0, history=stored)

    worker.send(Quit())
    assert bench.gone(worker) == Gone(worker, "exited with 0", in_order=True)
    assert [type(message) for message in bench.said(worker)].count(Ready) == 1
    assert ends(ready.pid)


def test_another_worker_goes_on_from_the_last_checkpoint(bench: Bench, undisturbed: Path) -> None:
    first = bench.start()
    first.send(task(LONG, folder=bench.folder))  # it may come before Ready
    first.send(task(ENDLESS, folder=bench.folder, first=1))
    bench.hear(first, EpochDone)
    first.send(Stop())
    for number in (0, 1):  # what is under way, and what has not begun
        interrupted = bench.hear(first, Interrupted, Started, Finished)
        assert interrupted == Interrupted(trial=number)
    assert not (bench.folder / "1").exists()
    stopped = History.read(bench.folder / "0")
    told = [message.record for message in bench.said(first) if isinstance(message, EpochDone)]
    assert stopped == History(epochs=told)

    order = task(LONG, folder=bench.folder)
    second = bench.start()
    second.send(order)
    assert bench.hear(second, Started).history == stopped
    bench.hear(second, EpochDone)
    second.kill()
    gone = bench.gone(second)
    assert "KILL" in gone.reason
    assert not gone.in_order
    assert not any(isinstance(m, Interrupted | Failed) for m in bench.said(second))
    told += [message.record for message in bench.said(second) if isinstance(message, EpochDone)]
    killed = History.read(bench.folder / "0")
    assert killed.outcome is None
    assert killed.epochs[: len(told)] == told
    assert len(killed.epochs) - len(told) <= 1  # killed between checkpoint and message

    third = bench.start()
    third.send(order)
    assert bench.hear(third, Started).history == killed
    finished = bench.hear(third, Finished)
    assert finished.history.epochs[: len(killed.epochs)] == killed.epochs
    done = [message.record.epoch for message in bench.said(third) if isinstance(message, EpochDone)]
    assert done == list(range(len(killed.epochs) + 1, 7))
    assert measured(finished.history) == measured(History.read(undisturbed))
    assert (bench.folder / "0" / MODEL).read_bytes() == (undisturbed / MODEL).read_bytes()


def test_a_message_larger_than_a_pipe_arrives_and_many_answers_keep_their_order(
    bench: Bench,
) -> None:
    many = task(*(trial_settings(seed=seed) for seed in range(300)), folder=bench.folder)
    assert len(many.model_dump_json()) > 2 * 2**16
    worker = bench.start()
    worker.send(Stop())  # so that none is begun
    worker.send(many)
    numbers = [bench.hear(worker, Interrupted).trial for _ in many.trials]
    assert numbers == list(range(300))


def test_an_exception_is_reported_and_ends_the_worker(bench: Bench) -> None:
    worker = bench.start()
    ready = bench.hear(worker, Ready)
    worker.send(task(trial_settings(dataset="digit"), folder=bench.folder))
    event = bench.next()
    assert isinstance(event, Said)
    failed = event.message
    assert isinstance(failed, Failed)
    assert failed.trials == [0]
    assert "did you mean 'digits'" in failed.error
    assert "\n" not in failed.error
    assert failed.traceback.startswith("Traceback (most recent call last):")
    assert failed.traceback.strip().endswith(failed.error)
    assert not bench.gone(worker).in_order
    assert ends(ready.pid)
    worker.send(Quit())  # too late, and dropped
    worker.kill()


@pytest.mark.parametrize("name", ["Exiting", "ExitingAtOnce"])
def test_code_that_exits_within_a_trial_is_a_loss(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It comes by the path on which modules are found, which every launcher hands on.
    trouble = f"import os\nos.environ['TROUBLE'] = {str(bench.folder)!r}\n"
    (bench.folder / "sitecustomize.py").write_text(trouble)
    find_modules_in(bench.folder, monkeypatch)
    worker = bench.start()
    exiting = trial_settings(epochs=100, activation=f"tests.troubled:{name}")
    worker.send(task(exiting, folder=bench.folder))
    gone = bench.gone(worker)
    assert isinstance(bench.said(worker)[-1], EpochDone)
    assert not gone.in_order, gone


def test_a_worker_that_is_asked_to_go_leaves_in_order(bench: Bench) -> None:
    worker = bench.start()
    ready = bench.hear(worker, Ready)
    worker.send(task(ENDLESS, folder=bench.folder))
    bench.hear(worker, EpochDone)
    os.kill(ready.pid, signal.SIGTERM)
    assert bench.hear(worker, Interrupted) == Interrupted(trial=0, leaving=True)
    assert bench.gone(worker).in_order


@pytest.mark.long
def test_close_ends_every_worker_and_gone_is_its_last_event(bench: Bench) -> None:
    mine = psutil.Process()
    assert not workers_below(mine)
    idle, busy, killed = (bench.start(index) for index in range(3))
    killed.kill()
    busy.send(task(ENDLESS, folder=bench.folder))
    while not any(isinstance(message, EpochDone) for message in bench.said(busy)):
        bench.next()
    killed.kill()
    unready = bench.start(3)
    bench.launcher.close()
    assert not workers_below(mine)
    bench.launcher.close()
    workers = {idle, busy, killed, unready}
    while workers != {event.worker for event in bench.events if isinstance(event, Gone)}:
        bench.next()
    pids = [m.pid for w in workers for m in bench.said(w) if isinstance(m, Ready)]
    assert 2 <= len(set(pids)) <= 3  # the last one can have come so far before it quit
    assert all(map(ends, pids))
    for worker in workers:
        for message in (Stop(), Quit(), task(ENDLESS, folder=bench.folder)):
            worker.send(message)
        worker.kill()
    assert bench.rest(0.5) == []
    for worker in workers:
        heard = [event for event in bench.events if event.worker is worker]
        assert [isinstance(event, Gone) for event in heard] == [False] * (len(heard) - 1) + [True]
    # The one that was killed at its work has left a whole checkpoint.
    assert History.read(bench.folder / "0").epochs


def test_a_worker_has_its_slots_environment_and_no_credentials(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():  # the nodes have them, too
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all of them")
    worker = bench.start(1, threads=2)
    environment = psutil.Process(bench.hear(worker, Ready).pid).environ()
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["PATH"] == os.environ["PATH"]
    assert "secret" not in environment.values()
    assert not [name for name in environment if name.startswith(("MLFLOW_", "AWS_"))]


def test_a_node_that_lacks_the_home_has_no_worker_that_needs_it(tmp_path: Path) -> None:
    """Whatever store its worker may read: its checkpoints would be lost with the node."""
    log = tmp_path / "home" / "logs" / "worker-0.log"
    with pytest.raises(RuntimeError, match="is not there on"):
        Host(Slot(0, threads=1), str(log), str(tmp_path), {}, granted=("AWS_",), needs_home=True)
    assert not (tmp_path / "home").exists()


def test_a_gpu_that_torch_cannot_use_is_not_replaced_by_the_cpu(bench: Bench) -> None:
    gpu = "GPU-00000000-0000-0000-0000-000000000000"  # on a cluster the one that Ray gives it
    worker = bench.start(1, threads=1, gpu=gpu)
    event = bench.next()
    assert isinstance(event, Gone)
    assert event.worker is worker
    assert re.search(f"cannot use the GPU ({gpu}|0):", bench.log())


# What a worker's Python runs at its start: it prints, from the time that torch is imported.
NOISE = """
import os, sys
if "adarelu_sweep.launching.worker" in sys.orig_argv:
    import threading, time
    def print_at_all_times():
        while "torch" not in sys.modules:
            time.sleep(0.001)
        while True:
            print("printed in Python", flush=True)
            os.write(1, b'{"kind": "ready", "written": "to the file itself"}\\n')
            os.system("echo printed by a child; cat")
            time.sleep(0.05)
    threading.Thread(target=print_at_all_times, daemon=True).start()
"""


def test_what_the_code_prints_goes_to_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "sitecustomize.py").write_text(NOISE)
    find_modules_in(bench.folder, monkeypatch)
    worker = bench.start()
    bench.hear(worker, Ready)
    worker.send(task(trial_settings(), folder=bench.folder))
    bench.hear(worker, Finished)
    assert [type(message) for message in bench.said(worker)] == [
        Ready,
        Started,
        EpochDone,
        EpochDone,
        Finished,
    ]
    for noise in ("printed in Python", "to the file itself", "printed by a child"):
        assert noise in bench.log()
    assert '"finished"' not in bench.log()


# A supervisor that dies

SUPERVISOR = """
import json, sys
from pathlib import Path
from queue import SimpleQueue
from adarelu_sweep.launching.launcher import Said, Slot
from adarelu_sweep.launching.local import LocalLauncher
from adarelu_sweep.launching.messages import EpochDone, Ready, Task
from tests.test_launcher import make_ray_launcher

inbox = SimpleQueue()
report = lambda event: inbox.put(event) if isinstance(event, Said) else None
logs, address = Path(sys.argv[1]), sys.argv[3]
launcher = make_ray_launcher(report, logs, address) if address else LocalLauncher(report, logs)
idle, busy = launcher.start(Slot(0, 1)), launcher.start(Slot(1, 1))
busy.send(Task.model_validate_json(sys.argv[2]))
pids, training = [], False
while len(pids) < 2 or not training:
    message = inbox.get().message
    if isinstance(message, Ready):
        pids.append(message.pid)
    training = training or isinstance(message, EpochDone)
print(json.dumps(pids), flush=True)
inbox.get(timeout=600)
while True:
    inbox.get()
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_workers_end_when_their_supervisor_dies(
    launcher: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("nodes").address if launcher == "ray" else ""
    order = task(ENDLESS, folder=tmp_path).model_dump_json()
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path / "logs"), order, address],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    pids = json.loads(supervisor.stdout.readline())
    assert all(map(psutil.pid_exists, pids))
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    assert all(map(ends, pids))
    assert History.read(tmp_path / "0").epochs


# The worker by itself

WORKER = ["-m", "adarelu_sweep.launching.worker"]


@pytest.mark.parametrize("last", [b"", b'{"kind": "task", "tri', b"\xff\n", b'{"kind": "go"}\n'])
def test_a_worker_ends_with_its_line(last: bytes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *WORKER], input=last, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert (b"ValidationError" in done.stderr) == bool(last)


def test_a_worker_imports_neither_optuna_nor_mlflow(tmp_path: Path) -> None:
    log = tmp_path / "imports"
    with log.open("wb") as imports:
        worker = subprocess.Popen(
            [sys.executable, "-X", "importtime", *WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=imports,
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        # The line has to stay open: a worker without a supervisor ends at once.
        order = task(trial_settings(epochs=1), folder=tmp_path)
        for message in (order, Quit()):
            worker.stdin.write(message.model_dump_json().encode() + b"\n")
        worker.stdin.flush()
        kinds = [json.loads(line)["kind"] for line in worker.stdout]
        assert worker.wait(PATIENCE) == 0
        worker.stdin.close()
        worker.stdout.close()
    assert kinds == ["ready", "started", "epoch", "finished"]
    names = [line.rpartition("|")[2].strip() for line in log.read_text().splitlines()]
    imported = {name.partition(".")[0] for name in names}
    assert {"torch", "adarelu_sweep"} <= imported
    unwanted = {"optuna", "mlflow", "sqlalchemy", "click"}
    assert not unwanted & imported


def test_sending_to_a_dead_worker_leaves_no_noise(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from queue import SimpleQueue\n"
        "from adarelu_sweep.launching.launcher import Slot\n"
        "from adarelu_sweep.launching.local import LocalLauncher\n"
        "from adarelu_sweep.launching.messages import Quit, Stop\n"
        "inbox = SimpleQueue(); launcher = LocalLauncher(inbox.put, Path(sys.argv[1]))\n"
        "worker = launcher.start(Slot(0, 1)); worker.kill(); worker.join(60)\n"
        "for _ in range(3): worker.send(Stop())\n"
        "print(inbox.get(timeout=60).reason)\n"
        "for _ in range(3): worker.send(Quit())\n"
        "launcher.close()"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "was killed by SIGKILL\n")
    assert "BrokenPipe" not in done.stderr
