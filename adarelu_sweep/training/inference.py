"""A trial's kept model as a classifier of raw images, rebuilt from the trial's folder alone."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.training.history import MODEL
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.settings import TrialSettings

_DESCRIPTION = "adarelu_sweep.model"


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
    def of(cls, dataset: ResidentDataset) -> "Pixels":
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


class Classifier(nn.Module):
    """A trained network that normalizes its input itself, in the precision of its training."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, pixels: Pixels, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels
        self.precision = precision
        self.register_buffer("mean", torch.tensor(pixels.mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(pixels.deviation).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32, N x classes.

        ``images`` is float32, N x channels x height x width: pixel values from 0 to 255, padded to
        the size that the network was trained on.
        """
        images = images.to(memory_format=self.precision.memory_format)
        with self.precision.autocast(images.device):
            logits: Tensor = self.network((images - self.mean) / self.deviation)
        return logits.float()


class Description(BaseModel):
    """What ``load_classifier`` has to know beside the weights."""

    settings: TrialSettings
    pixels: Pixels

    def as_metadata(self) -> dict[str, str]:
        """Return it for a safetensors file, in one entry: several would come in any order."""
        return {_DESCRIPTION: self.model_dump_json()}


def load_classifier(folder: Path) -> Classifier:
    """Rebuild the classifier of a finished trial on the CPU, for evaluation.

    Raises FileNotFoundError if the trial kept no model, ValueError if it was kept by a version that
    did not yet say how its images were normalized.
    """
    with safe_open(folder / MODEL, framework="pt") as file:
        metadata = file.metadata() or {}
    if _DESCRIPTION not in metadata:
        raise ValueError("an earlier version kept the model, without its images' normalization")
    description = Description.model_validate_json(metadata[_DESCRIPTION])
    settings, pixels = description.settings, description.pixels
    network = build_network(
        settings.network,
        settings.activation,
        pixels.channels,
        pixels.classes,
        torch.Generator(),  # its initial weights do not stay
    )
    network.load_state_dict(load_file(folder / MODEL))
    precision = Precision.of(settings.training)
    network.to(memory_format=precision.memory_format)
    return Classifier(network, pixels, precision).eval().requires_grad_(False)
