"""A trial's kept model as a classifier of raw images, rebuilt from the trial's folder alone."""

import torch
from torch import Tensor, nn

from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.storing.places import Place
from adarelu_sweep.training.checkpoint import unpacked
from adarelu_sweep.training.description import Description, Pixels
from adarelu_sweep.training.precision import Precision


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


def load_classifier(folder: Place) -> Classifier:
    """Rebuild the classifier of a finished trial on the CPU, for evaluation.

    Raises FileNotFoundError if the trial kept no model, ValueError if it is damaged, or was kept by
    a version that did not yet say how its images were normalized.
    """
    description, content = Description.read_whole(folder)
    settings, pixels = description.settings, description.pixels
    network = build_network(
        settings.network,
        settings.activation,
        pixels.channels,
        pixels.classes,
        torch.Generator(),  # its initial weights do not stay
    )
    network.load_state_dict(unpacked(content))
    precision = Precision.of(settings.training)
    network.to(memory_format=precision.memory_format)
    return Classifier(network, pixels, precision).eval().requires_grad_(False)
