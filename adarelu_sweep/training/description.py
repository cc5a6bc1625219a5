"""What a kept model says of itself in its file. Needs no torch."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from adarelu_sweep.storing.places import Place
from adarelu_sweep.training.history import MODEL
from adarelu_sweep.training.sealed import DamagedError, read_entry, read_whole
from adarelu_sweep.training.settings import TrialSettings

if TYPE_CHECKING:
    from adarelu_sweep.datasets.resident import ResidentDataset

_ENTRY = "adarelu_sweep.model"


class Pixels(BaseModel):
    """The images that a network was trained on, and how they were normalized.

    Mean and deviation are those of each channel, in units of the uint8 values.
    """

    model_config = ConfigDict(frozen=True)

    channels: int
    height: int
    width: int
    classes: int
    mean: list[float]
    deviation: list[float]

    @classmethod
    def of(cls, dataset: "ResidentDataset") -> "Pixels":
        """Describe the images as the data set holds them: padded, not yet normalized."""
        _, channels, height, width = dataset.images["train"].shape
        return cls(
            channels=channels,
            height=height,
            width=width,
            classes=dataset.num_classes,
            mean=dataset.mean.flatten().tolist(),
            deviation=dataset.deviation.flatten().tolist(),
        )


class Description(BaseModel):
    """What has to be known beside the weights."""

    settings: TrialSettings
    pixels: Pixels
    epoch: int | None = None
    """After which epoch the weights were kept, from 1 on; earlier versions kept the last one's."""
    accuracy: float | None = None
    """What they reached after it on the split that the trial is measured on, percent."""

    @classmethod
    def read(cls, folder: Place) -> "Description":
        """Read it from the model in a trial's folder; verifies its header alone.

        Raises FileNotFoundError if no model is kept, ValueError if it is damaged or says nothing.
        """
        return cls._parse(read_entry(folder / MODEL, _ENTRY))

    @classmethod
    def read_whole(cls, folder: Place) -> tuple["Description", bytes]:
        """Read it with the whole file, all verified; raises as ``read`` does."""
        text, content = read_whole(folder / MODEL, _ENTRY)
        return cls._parse(text), content

    @classmethod
    def _parse(cls, text: str) -> "Description":
        try:
            return cls.model_validate_json(text)
        except ValueError:
            raise DamagedError("what the model says of itself cannot be read") from None

    def as_metadata(self) -> dict[str, str]:
        """Return it for a safetensors file."""
        return {_ENTRY: self.model_dump_json()}
