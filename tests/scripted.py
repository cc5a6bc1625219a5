"""Workers that follow a script, for the supervisor's decisions about several GPUs.

No machine of the tests has two GPUs. Agenda, ledger and loop are the real ones; a worker here says
what a real one would, and trains nothing.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Gone, Said, Slot
from adarelu_sweep.launching.messages import (
    EpochDone,
    Failed,
    Finished,
    FromWorker,
    Quit,
    Ready,
    Started,
    Stop,
    Task,
    ToWorker,
)
from adarelu_sweep.placing.packing import Packing
from adarelu_sweep.recording.ledger import Ledger
from adarelu_sweep.recording.patience import Patience
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.schema import ExecutionSettings
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.display import Display
from adarelu_sweep.supervising.supervisor import Ending, Signalled, Supervisor, SupervisorInbox
from adarelu_sweep.tracking.delivery import Delivery
from adarelu_sweep.training.history import EpochRecord, History

LONGEST = 120.0  # seconds, after which a sweep counts as hanging
_MEASURED = {f"{split}/accuracy": 50.0 for split in ("train", "val", "test")}
METRICS = _MEASURED | {f"{split}/loss": 1.0 for split in ("train", "val", "test")}
METRICS |= {"images_per_second": 1.0}

Part = Callable[["ScriptedWorker", Task], None]
"""What a worker does with a task."""


class Lines(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


class ScriptedWorker:
    placed = True

    def __init__(self, stage: "Stage", slot: Slot, part: Part | None) -> None:
        self.slot = slot
        self.stopped = Event()
        self._stage = stage
        self._part = part
        self._ended = False
        if part is None:
            self.end("exited with 1")
        else:
            self.say(self.ready())

    def ready(self) -> Ready:
        return Ready(host="here", pid=1, device=self.slot.device, versions={})

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
            self._stage.tasks.append(message)
            Thread(target=self._part, args=(self, message), daemon=True).start()
        elif isinstance(message, Stop):
            self.stopped.set()
        elif isinstance(message, Quit):
            self.end("exited with 0", in_order=True)

    def kill(self) -> None:
        self.end("was killed")


class Stage:
    """Slots, and the parts that their workers play, one after the other; the last one stays."""

    offers = False

    def __init__(self, folder: Path, plan: StudyRecord) -> None:
        self.inbox = SupervisorInbox()
        self.display = Lines()
        self.parts: dict[str, list[Part | None]] = {}
        self.started: list[str] = []
        self.tasks: list[Task] = []
        """In the order in which they were given."""
        self.agenda = Agenda(Ledger(folder / "optuna.db").create(plan), Home(folder))
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

    def run(self, pack: int = 1, first: Sequence[str] = (), **execution: float) -> Ending:
        """Run the sweep on all slots, or on these to begin with."""
        all_slots = [Slot(index, 1, device, device) for index, device in enumerate(self.parts)]
        slots = [slot for slot in all_slots if not first or slot.device in first]
        supervisor = Supervisor(
            self.agenda,
            self,
            self.inbox,
            slots,
            self._nowhere,
            self.display,
            self._folder,
            ExecutionSettings.model_validate(execution),
            Packing(pack, Home(self._folder)),
            Patience(),
        )

        def hang() -> None:  # signals end any sweep, a hanging one, too
            time.sleep(LONGEST)
            for _ in range(2):
                self.inbox.put(Signalled(15))

        Thread(target=hang, daemon=True).start()
        return supervisor.run()

    def jobs(self) -> dict[str, Job]:
        """The trials that were begun, by their activation and seed."""
        return {
            f"{job.cell.settings.activation.name}/{job.cell.settings.seed}": job
            for job in self.agenda.jobs()
        }

    def end(self) -> None:
        self._nowhere.finish("KILLED", None, patience=0)


def begin(worker: ScriptedWorker, task: Task) -> None:
    for order in task.trials:
        worker.say(Started(trial=order.number, history=History()))


def train(worker: ScriptedWorker, task: Task) -> list[EpochRecord]:
    """Say that all epochs are done, and not yet that the trials are."""
    epochs = range(1, task.trials[0].settings.training.epochs + 1)
    records = [EpochRecord(epoch=epoch, timestamp=epoch, metrics=METRICS) for epoch in epochs]
    for record in records:
        for order in task.trials:
            worker.say(EpochDone(trial=order.number, record=record))
    return records


def finish(worker: ScriptedWorker, task: Task) -> None:
    begin(worker, task)
    history = History(epochs=train(worker, task), outcome="complete")
    for order in task.trials:
        worker.say(Finished(trial=order.number, history=history))


def finishing(after: float = 0.0) -> Part:
    def part(worker: ScriptedWorker, task: Task) -> None:
        time.sleep(after)
        finish(worker, task)

    return part


def fail(worker: ScriptedWorker, task: Task, **failed: object) -> None:
    """Say that all trials failed, or what is given, and end as a worker then does."""
    message = {"trials": [order.number for order in task.trials], "error": "E", "traceback": "T"}
    worker.say(Failed.model_validate(message | failed))
    worker.end("exited with 1")


def wanting_memory(after: float = 0.0) -> Part:
    def part(worker: ScriptedWorker, task: Task) -> None:
        time.sleep(after)
        fail(worker, task, cause="memory", error="OOM")

    return part
