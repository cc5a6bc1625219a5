"""What the process that measures is asked, and what it says: one line of JSON each."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.training.settings import TrialSettings


class Group(BaseModel):
    """Arms that take turns: those of one network on images of one shape."""

    shape: Shape
    arms: list[TrialSettings]
    """They differ in the activation alone."""
    reference: int
    """Which of them the plain loop trains, and is measured in packs."""

    @property
    def in_fp32(self) -> TrialSettings | None:
        """The reference in fp32, which bf16 is compared with; None where it is trained in that."""
        reference = self.arms[self.reference]
        if reference.training.precision == "fp32":
            return None
        training = reference.training.model_copy(update={"precision": "fp32"})
        return reference.model_copy(update={"training": training})

    @property
    def label(self) -> str:
        """What they have in common, in words."""
        training = self.arms[0].training
        return f"{self.arms[0].network.label}, {training.precision}"


class Order(BaseModel):
    """What is to be measured on one device, the one that the process was given."""

    groups: list[Group]
    threads: int
    loaders: int
    """Processes of the plain loop's DataLoader."""
    packs: list[int] | None
    """Sizes of packs beside 1. None: 2, 4, 8 and so on, as long as it helps."""
    rounds: int | None
    """How many turns each has, if there is time. None: as many as ``seconds`` allow."""
    seconds: float | None
    """About how long all of it may take. None: as long as it takes."""
    turn_seconds: float = 0.2
    """About how long a turn takes, in whole batches: one at least."""


class Begun(BaseModel):
    """The device is there."""

    kind: Literal["begun"] = "begun"
    versions: dict[str, str]


class Doing(BaseModel):
    """What is measured now, in words."""

    kind: Literal["doing"] = "doing"
    what: str


class Measured(BaseModel):
    """Throughputs, in images per second, round by round."""

    kind: Literal["measured"] = "measured"
    group: int
    arm: int
    plain: bool = False
    """Whether the plain loop trained the arm."""
    in_fp32: bool = False
    """Whether the arm, which is the reference, was trained as ``Group.in_fp32`` instead."""
    pack: int = 1
    training: list[float]
    evaluation: list[float] = []
    """Of the plain loop none."""
    smaller_pack: list[float] = []
    """Training in the next smaller pack, in the same rounds."""


class LeftOut(BaseModel):
    """Something was not measured, and why."""

    kind: Literal["left out"] = "left out"
    what: str


class Failed(BaseModel):
    """It ends here, and why."""

    kind: Literal["failed"] = "failed"
    error: str


Said = Begun | Doing | Measured | LeftOut | Failed
SAID: TypeAdapter[Said] = TypeAdapter(Annotated[Said, Field(discriminator="kind")])
