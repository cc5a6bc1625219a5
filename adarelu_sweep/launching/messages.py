"""What supervisor and workers say to each other, the same for every launcher.

One message is one JSON object, told apart by ``kind``.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from adarelu_sweep.storing.marks import Fence
from adarelu_sweep.training.history import EpochRecord, History, Keep
from adarelu_sweep.training.settings import TrialSettings


class Message(BaseModel):
    """Base of all messages. Not-a-number and infinities survive the way."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class TrialOrder(Message):
    """One trial to be trained, or to be taken up from its checkpoint."""

    number: int
    settings: TrialSettings
    folder: str
    threads: int
    """CPU threads; part of the trial, because its numbers depend on them to the last bit."""
    awaits_decision: bool = False
    """Wait for a ``Decision`` after every epoch but the last."""
    keep: Keep = "last"
    """The weights that stay in the folder at the end."""


class Task(Message):
    """Train a trial, or several of one arm at once: a pack.

    Those of a pack have equal settings but for the seed, equal threads, and await no decision.
    """

    kind: Literal["task"] = "task"
    trials: list[TrialOrder]
    data_origin: str
    """Where data sets come from: a folder's whole path, or an address in a store."""
    heartbeat: float = 10.0
    """Seconds, at most, from one sign of progress to the next while steps are done."""
    fence: Fence | None = None
    """What is asked before anything is written; None where results lie in the home."""


class Stop(Message):
    """Finish the step in hand, say ``Interrupted`` and wait; the checkpoint holds the rest."""

    kind: Literal["stop"] = "stop"


class Decision(Message):
    """The answer to a message that awaits one: end the trial after its last epoch, or go on."""

    kind: Literal["decision"] = "decision"
    prune: bool


class Quit(Message):
    """Exit: there is nothing left to do."""

    kind: Literal["quit"] = "quit"


class Ready(Message):
    """The worker has imported what it needs and waits for a task."""

    kind: Literal["ready"] = "ready"
    host: str
    pid: int
    device: str
    versions: dict[str, str]


class Started(Message):
    """A trial is being trained from this history on."""

    kind: Literal["started"] = "started"
    trial: int
    history: History
    pairing: dict[str, str] = {}
    """Digests of what trials that differ only in the activation share."""
    awaits_decision: bool = False
    notes: list[str] = []
    """What the user is to be told: that a damaged checkpoint was not used."""


class EpochDone(Message):
    """An epoch was trained, evaluated and checkpointed, in this order."""

    kind: Literal["epoch"] = "epoch"
    trial: int
    record: EpochRecord
    awaits_decision: bool = False


class Progress(Message):
    """Steps are done. A worker that says neither this nor anything else makes no progress."""

    kind: Literal["progress"] = "progress"


class Note(Message):
    """Something that the user is to be told of a trial; it goes on."""

    kind: Literal["note"] = "note"
    trial: int
    text: str


class Finished(Message):
    """A trial has its outcome, and its folder all that is to be kept of it."""

    kind: Literal["finished"] = "finished"
    trial: int
    history: History


class Interrupted(Message):
    """A trial was stopped on request; its last checkpoint stands."""

    kind: Literal["interrupted"] = "interrupted"
    trial: int
    leaving: bool = False
    """The worker itself was asked to go, by a signal, and takes no further task."""
    superseded: bool = False
    """Another supervisor has taken the study: nothing more of it is written here."""


class Failed(Message):
    """The code raised an exception; the worker exits after saying so."""

    kind: Literal["failed"] = "failed"
    trials: list[int]
    """Whose code it was; all of a pack where that cannot be told, or where memory ran out."""
    cause: Literal["exception", "memory"] = "exception"
    """Memory, of the device or the host, may suffice for fewer trials at once."""
    error: str
    """The last line of the traceback."""
    traceback: str


ToWorker = Annotated[Task | Stop | Decision | Quit, Field(discriminator="kind")]
FromWorker = Annotated[
    Ready | Started | Progress | EpochDone | Note | Finished | Interrupted | Failed,
    Field(discriminator="kind"),
]

TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(ToWorker)
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(FromWorker)
