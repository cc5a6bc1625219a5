"""Proving components that are not built in: ``python -m THIS_MODULE DATA_FOLDER``, parts on stdin.

Every network of a study is built with every activation, and trained on two random images. The
process prints nothing to stdout but the message of a UserError, and then exits with 2.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adarelu_sweep.activations.factory import activation_factory
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.shape import shape_of
from adarelu_sweep.errors import UserError
from adarelu_sweep.networks.digest import weight_digest
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.processes import search_current_folder_last
from adarelu_sweep.training.loop import Trial
from adarelu_sweep.training.settings import DataSettings, TrainingSettings, TrialSettings

_IMAGES = 2
_NOT_THEIRS = {"adarelu_sweep", "torch", "__main__"} | sys.stdlib_module_names


class Parts(BaseModel):
    """What a study combines, and how it trains."""

    dataset: list[str]
    network: list[Component]
    activation: list[Component]
    training: TrainingSettings


def rehearse(parts: Parts, data_folder: Path) -> None:
    """Build and train every combination with a part that is not built in.

    Raises UserError that names the part and says what is wrong with it.
    """
    for activation in parts.activation:
        with _blamed(_named("activation", activation)):
            activation_factory(activation)()
    for network in parts.network:
        with _blamed(_named("network", network)):
            NETWORKS.load(network)
    shapes = sorted({shape_of(name, data_folder) for name in parts.dataset})
    for shape in shapes:
        dataset = ResidentDataset(random_arrays(shape, _IMAGES, _IMAGES), "cpu")
        for network in parts.network:
            digests = set()
            for activation in parts.activation:
                if network.name in NETWORKS and activation.name in ACTIVATIONS:
                    continue
                with _blamed(_culprit(network, activation)):
                    digests.add(_prove(network, activation, dataset))
                    _train(network, activation, parts.training, dataset)
            if len(digests) > 1:
                raise UserError(
                    f"{_named('network', network)}: its initial weights depend on the activation, "
                    "so trials that differ in the activation alone could not be compared"
                )


def _prove(network: Component, activation: Component, dataset: ResidentDataset) -> str:
    """Check what a network gives and where its gradients arrive; return its weights' digest."""

    def build() -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        return build_network(
            network, activation, dataset.in_channels, dataset.num_classes, generator
        )

    built, twin = build(), build().state_dict()
    for name, value in built.state_dict().items():
        if not torch.equal(value, twin[name]):
            raise UserError(f"{name} differs from one construction to the next: draw with torch")
    digest = weight_digest(built)
    images, labels = dataset.batch("train", torch.arange(_IMAGES))
    images.requires_grad_()
    loss = cross_entropy(_logits(built, images, dataset.num_classes), labels)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None]
    # A part of a network may rest, and an input may be looked up in a table; both at once is a
    # gradient that ends on its way.
    if images.grad is None and without:
        raise UserError(f"no gradient reaches {without[0]}: every step must be differentiable")
    with torch.no_grad():
        _logits(built.eval(), images, dataset.num_classes)
    return digest


def _logits(network: nn.Module, images: Tensor, num_classes: int) -> Tensor:
    """Return the output of a network, once it is batch x classes."""
    output = network(images)
    if not isinstance(output, Tensor):
        raise UserError(f"gives a {type(output).__name__}, not a tensor of logits")
    wanted = (len(images), num_classes)
    if output.shape != wanted:
        raise UserError(
            f"gives an output of shape {tuple(output.shape)}, not {wanted}: batch x classes"
        )
    return output


def _train(
    network: Component, activation: Component, training: TrainingSettings, dataset: ResidentDataset
) -> None:
    """Train an epoch as a worker does, and take its checkpoint up again."""
    settings = TrialSettings(
        dataset="rehearsal",
        network=network,
        activation=activation,
        seed=0,
        data=DataSettings(),
        training=training.model_copy(update={"epochs": 1}),
    )
    with tempfile.TemporaryDirectory() as folder:
        for _ in Trial(settings, dataset, Path(folder)).train(lambda: False):
            pass
        Trial(settings, dataset, Path(folder))


def _named(kind: str, component: Component) -> str:
    return f"{kind} {component.label}"


def _culprit(network: Component, activation: Component) -> str:
    """Name the part that is not built in, or both."""
    if network.name in NETWORKS:
        return _named("activation", activation)
    if activation.name in ACTIVATIONS:
        return _named("network", network)
    return f"{_named('network', network)} with {_named('activation', activation)}"


@contextmanager
def _blamed(culprit: str) -> Iterator[None]:
    """Turn whatever is raised into a UserError that names the part, the reason and the place."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{culprit}: {error}") from None
    except (Exception, SystemExit) as error:
        said = "".join(traceback.format_exception_only(error)).strip()
        places = [
            f" ({frame.f_code.co_filename}, line {line})"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THEIRS
        ]
        raise UserError(f"{culprit}: {said}{places[-1] if places else ''}") from None


def main() -> None:
    """Rehearse the parts that stand on standard input."""
    search_current_folder_last()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the parts print is no answer
    try:
        rehearse(Parts.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))
    except UserError as error:
        print(" ".join(str(error).split()), file=answer)
        answer.close()
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # the process that waits for this one says so


if __name__ == "__main__":
    main()
