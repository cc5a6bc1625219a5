"""Two layouts of a pack: networks that take turns, as the package trains them, and stacked weights.

Stacked, the seeds' networks are one of grouped convolutions, a group for each, every seed on a
batch of its own. Both are the same vgg16_bn with ReLU, with the same loss and optimizer, captured
where there is a GPU; they take turns, size by size, and the first losses of both must agree. The
first turns warm up and are not counted.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import date
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.benchmarking.contestants import Lanes
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.datasets.shape import Shape
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.vgg import VGG
from adarelu_sweep.training.optimizers import build_optimizer
from adarelu_sweep.training.precision import Precision
from adarelu_sweep.training.repeating import Repeated
from adarelu_sweep.training.settings import TrialSettings
from adarelu_sweep.training.streams import generator
from benchmarks.bare import bare_trial
from benchmarks.machine import machine

_WARM_UP = 2  # turns


class Stacked:
    """Networks of one arm with stacked weights, trained on batches of noise.

    Attributes:
        loss: Of the last step, summed over the seeds, 0-dim.
    """

    def __init__(self, settings: TrialSettings, dataset: ResidentDataset, seeds: int) -> None:
        self._dataset, self._seeds = dataset, seeds
        self._precision = Precision.of(settings.training)
        self._network = stacked([initial(settings, dataset, seed) for seed in range(seeds)])
        self._network.to(dataset.device).to(memory_format=self._precision.memory_format)
        self._optimizer = build_optimizer(settings.training.optimizer, self._network)
        self._step = Repeated(dataset.device, capture=True)
        self._batch_size = settings.training.batch_size
        self.loss = torch.zeros((), device=dataset.device)

    def train(self, batches: int) -> float:
        """Train all for some batches each; return images/s, all together."""
        device = self._dataset.device
        order = torch.arange(batches * self._batch_size, device=device)
        order %= self._dataset.size("train")
        self._network.train()
        wait(device)
        began = time.perf_counter()
        for indices in torch.split(order, self._batch_size):
            self._step(self._update, indices)
        wait(device)
        return self._seeds * len(order) / (time.perf_counter() - began)

    def _update(self, indices: Tensor) -> None:
        """Do one step of every seed, each with a gather of its own."""
        fmt = self._precision.memory_format
        batches = [self._dataset.batch("train", indices, fmt) for _ in range(self._seeds)]
        images = torch.cat([images for images, _ in batches], 1)
        labels = torch.stack([labels for _, labels in batches], 1)
        self._optimizer.zero_grad(set_to_none=True)
        with self._precision.autocast(self._dataset.device):
            logits = self._network(images)
        logits = logits.float().view(len(indices) * self._seeds, -1)
        loss = F.cross_entropy(logits, labels.flatten()) * self._seeds
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.loss.copy_(loss.detach())


class Averaged(nn.Module):
    """The mean over the image, B x C x 1 x 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of x, B x C x H x W."""
        return x.mean((2, 3), keepdim=True)


def initial(settings: TrialSettings, dataset: ResidentDataset, seed: int) -> VGG:
    """Return a seed's network as the package begins with it."""
    network = build_network(
        settings.network,
        settings.activation,
        dataset.in_channels,
        dataset.num_classes,
        generator(seed, "initial weights"),
    )
    assert isinstance(network, VGG)
    return network


def stacked(networks: Sequence[VGG]) -> nn.Sequential:
    """Return one network of grouped convolutions that does what all of them do.

    It takes B x (seeds · C) x H x W and returns B x (seeds · classes) x 1 x 1.
    """
    layers: list[nn.Module] = []
    for position, block in enumerate(networks[0].features):
        if isinstance(block, nn.MaxPool2d):
            layers.append(deepcopy(block))
            continue
        blocks = [network.features[position] for network in networks]
        convolution = grouped([one.conv for one in blocks], 3)  # type: ignore[union-attr]
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
    heads = grouped([network.head for network in networks], 1)
    return nn.Sequential(*layers, Averaged(), heads)


def grouped(layers: Sequence[nn.Module], side: int) -> nn.Conv2d:
    """Return convolutions, or linear layers with ``side`` 1, as one with a group for each."""
    weights = [parameters(layer)["weight"] for layer in layers]
    outputs, inputs = weights[0].shape[:2]
    many = len(layers)
    bias = "bias" in parameters(layers[0])
    made = nn.Conv2d(many * inputs, many * outputs, side, padding=side // 2, groups=many, bias=bias)
    with torch.no_grad():
        made.weight.copy_(torch.cat(weights).view_as(made.weight))
        if made.bias is not None:
            made.bias.copy_(torch.cat([parameters(layer)["bias"] for layer in layers]))
    return made


def parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return a layer's parameters by their names."""
    return dict(layer.named_parameters())


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure every combination that was asked for, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    arrays = random_arrays(Shape(32, 32, 3, 10), options.batches * options.batch_size, 10)
    dataset = ResidentDataset(arrays, device)
    print(f"{date.today()}; {machine(device)}")
    print(f"vgg16_bn with ReLU, CIFAR's shape, batch {options.batch_size}; images/s, medians\n")
    print("| width | precision | seeds | in turns | stacked | stacked over turns | quartiles |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for width, precision, seeds in product(options.width, options.precision, options.seeds):
        row = measured(
            options,
            bare_trial("cifar10", "vgg16_bn", width, "relu", options.batch_size, precision),
            dataset,
            seeds,
        )
        print(f"| {width:g} | {precision} | {seeds} | {row} |", flush=True)


def measured(
    options: argparse.Namespace, wanted: TrialSettings, dataset: ResidentDataset, seeds: int
) -> str:
    """Return a row: the medians in images a second, their ratio, and its quartiles."""
    turns, stack = Lanes(wanted, dataset), Stacked(wanted, dataset, seeds)
    turns.grow(seeds)
    agree(wanted, dataset, seeds)
    pairs = [
        (turns.train(options.batches, seeds), stack.train(options.batches))
        for _ in range(options.rounds + _WARM_UP)
    ][_WARM_UP:]
    low, ratio, high = statistics.quantiles([ours / theirs for theirs, ours in pairs], n=4)
    apart, together = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    return f"{apart:.0f} | {together:.0f} | {ratio:.2f} | {low:.2f} to {high:.2f}"


def agree(wanted: TrialSettings, dataset: ResidentDataset, seeds: int) -> None:
    """Raise AssertionError unless the stack's first loss is the sum of those of the networks."""
    stack = Stacked(wanted, dataset, seeds)
    stack.train(1)
    fmt = Precision.of(wanted.training).memory_format
    first = torch.arange(wanted.training.batch_size, device=dataset.device)
    images, labels = dataset.batch("train", first, fmt)
    losses = []
    for seed in range(seeds):
        network = initial(wanted, dataset, seed).to(dataset.device).train()
        with torch.no_grad(), Precision.of(wanted.training).autocast(dataset.device):
            losses.append(F.cross_entropy(network(images).float(), labels))
    tolerance = 0.02 if wanted.training.precision == "bf16" else 1e-3
    torch.testing.assert_close(stack.loss, torch.stack(losses).sum(), rtol=tolerance, atol=0)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Stacked weights against networks in turns.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--width", type=float, nargs="+", default=[0.125, 0.25])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10, help="of each seed, in one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
