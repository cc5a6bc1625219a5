"""What one trial is: its data, network, activation, seed and training. Needs no torch."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component, Registry, Scalar
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.training.registry import AUGMENTATIONS, OPTIMIZERS, SCHEDULES


def component_of(registry: Registry, default: str | None = None) -> BeforeValidator:
    """Accept a name or a table of the registry; a table without a name means the default.

    What comes as JSON was resolved before, by another version perhaps, and passes as it is.
    """

    def resolve(given: Any, info: ValidationInfo) -> Any:
        if info.mode == "json":
            return given
        if default and isinstance(given, dict):
            given = {"name": default, **given}
        return registry.resolve(given)

    return BeforeValidator(resolve)


ActivationComponent = Annotated[Component, component_of(ACTIVATIONS)]
NetworkComponent = Annotated[Component, component_of(NETWORKS)]
OptimizerComponent = Annotated[Component, component_of(OPTIMIZERS, "sgd")]
ScheduleComponent = Annotated[Component, component_of(SCHEDULES, "constant")]
AugmentationComponent = Annotated[Component, component_of(AUGMENTATIONS)]


class Settings(BaseModel):
    """Base of everything that a study file sets: strict, immutable, unknown keys refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class DataSettings(Settings):
    """How much of a data set is used: all of it, or a fixed subset."""

    train_limit: PositiveInt | None = None
    test_limit: PositiveInt | None = None

    def subset_note(self) -> str | None:
        """Say that results come from a fixed subset, or return None if they do not."""
        if self.train_limit is None and self.test_limit is None:
            return None
        train = f"at most {self.train_limit}" if self.train_limit else "all"
        test = f"at most {self.test_limit}" if self.test_limit else "all"
        return f"On a fixed subset of the data: {train} training images, {test} test images."


class TrainingSettings(Settings):
    """How a trial is trained and evaluated."""

    epochs: PositiveInt
    batch_size: PositiveInt = 32
    eval_batch_size: PositiveInt | None = None
    """Images per batch of an evaluation; the training batch size unless told otherwise, because
    a batch-dependent activation predicts differently in batches of another size."""
    optimizer: OptimizerComponent = Field(default_factory=lambda: OPTIMIZERS.resolve("sgd"))
    schedule: ScheduleComponent = Field(default_factory=lambda: SCHEDULES.resolve("constant"))
    augmentation: AugmentationComponent = Field(
        default_factory=lambda: AUGMENTATIONS.resolve("none")
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    deterministic: bool = False
    """Ask CUDA for deterministic algorithms. On the CPU a trial is deterministic as it is."""
    probes: bool = True
    """Look at every activation layer, epoch by epoch."""

    @field_validator("optimizer")
    @classmethod
    def _nesterov_needs_momentum(cls, optimizer: Component) -> Component:
        arguments = optimizer.arguments
        if arguments.get("nesterov") and not arguments["momentum"]:
            raise ValueError("nesterov = true needs a momentum above 0")
        return optimizer

    @property
    def evaluation_batch_size(self) -> int:
        """Images per batch of an evaluation."""
        return self.eval_batch_size or self.batch_size


class TrialSettings(Settings):
    """One trial, resolved: everything that decides its numbers but the machine."""

    dataset: str
    network: NetworkComponent
    activation: ActivationComponent
    seed: int
    data: DataSettings
    training: TrainingSettings
    tuned_arm: str | None = None
    """The arm's name, where a search has changed the settings from which it would follow."""
    validation_fraction: float | None = None
    """The share of the training images that the training never sees and on which the trial is
    measured instead of the test set, as in a search. None: trained on all, measured on the test
    set."""

    @property
    def measured_on(self) -> Literal["val", "test"]:
        """The split whose accuracy is the trial's result."""
        return "test" if self.validation_fraction is None else "val"

    @property
    def arm(self) -> str:
        """The arm that this trial belongs to: data set, network and activation."""
        return self.tuned_arm or f"{self.dataset}/{self.network.label}/{self.activation.label}"

    def flattened(self) -> dict[str, Scalar]:
        """Return every field under a dotted key, as MLflow's parameters want it."""
        training = {
            "training." + name: getattr(self.training, name)
            for name in TrainingSettings.model_fields
            if name not in {"optimizer", "schedule", "augmentation", "eval_batch_size"}
        }
        flat: dict[str, Scalar] = {
            "dataset": self.dataset,
            "seed": self.seed,
            **_dotted("network", self.network),
            **_dotted("activation", self.activation),
            **training,
            "training.eval_batch_size": self.training.evaluation_batch_size,
            **_dotted("training.optimizer", self.training.optimizer),
            **_dotted("training.schedule", self.training.schedule),
            **_dotted("training.augmentation", self.training.augmentation),
            "data.train_limit": self.data.train_limit or "all",
            "data.test_limit": self.data.test_limit or "all",
            "measured_on": self.measured_on,
        }
        if self.validation_fraction is not None:
            flat["validation_fraction"] = self.validation_fraction
        return flat


def _dotted(prefix: str, component: Component) -> dict[str, Scalar]:
    return {f"{prefix}.{name}": value for name, value in component.flattened().items()}
