"""What AdaReLU costs over ReLU: alone, and in a training step, taking turns in one process.

Alone: forward and backward of one tensor of 2^24 elements. In a step: forward, loss, backward and
update of a whole network on one batch; on a GPU the step is captured into a CUDA graph, as the
launches of an eager one would hide what the kernels cost. The third contender is AdaReLU written
the obvious way (``obvious.py``). Ratios are those of turns that followed each other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adarelu_sweep.activations.adarelu import AdaReLU
from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.networks.registry import NETWORKS
from benchmarks.machine import machine
from benchmarks.obvious import ObviousAdaReLU

CONTENDERS = {
    "relu": nn.ReLU,
    "adarelu": AdaReLU,
    "obvious": ObviousAdaReLU,
}
_NAMES = {"obvious": "benchmarks.obvious:ObviousAdaReLU"}  # as a study file would name it

Turn = Callable[[], object]


def main() -> None:
    """Measure both, and print a Markdown table of each."""
    options = parsed()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    print(f"{date.today()}; {machine(device)}; {options.dtype}")
    if "alone" in options.what:
        print(f"\nForward and backward, {options.elements} elements\n")
        table(options, {"alone": alone(options.elements, device, dtype)})
    if "step" in options.what:
        print(f"\nA training step, batch {options.batch_size}\n")
        table(
            options,
            {
                f"{network}, width {width:g}": steps(options, network, width, device, dtype)
                for network, width in product(options.network, options.width)
            },
        )


def table(options: argparse.Namespace, cases: dict[str, Callable[[str], Turn]]) -> None:
    """Print a row for every contender of every case."""
    print("| | activation | ms | of ReLU's | 25 % to 75 % |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for case, build in cases.items():
        times = measured({name: build(name) for name in CONTENDERS}, options)
        for name, milliseconds in times.items():
            ratios = [own / relu for own, relu in zip(milliseconds, times["relu"], strict=True)]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            spread = f"{ratio:.3f} | {low:.3f} to {high:.3f}"
            median = statistics.median(milliseconds)
            print(f"| {case} | {name} | {median:.3f} | {spread} |", flush=True)


def measured(turns: dict[str, Turn], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds of every turn of every contender; the first ones warm up."""
    on_gpu = options.device != "cpu"
    times: dict[str, list[float]] = {name: [] for name in turns}
    order = list(turns)
    for _ in range(options.rounds + 2):
        order.append(order.pop(0))  # none always follows the same one
        for name in order:
            began = time.perf_counter()
            for _ in range(options.repeats):
                turns[name]()
            if on_gpu:
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - began) / options.repeats)
    return {name: milliseconds[2:] for name, milliseconds in times.items()}


def alone(elements: int, device: torch.device, dtype: torch.dtype) -> Callable[[str], Turn]:
    """Return what builds a turn of one activation by itself."""
    x = torch.randn(elements, device=device, dtype=dtype).requires_grad_()
    gradient = torch.randn_like(x)

    def build(name: str) -> Turn:
        activation = CONTENDERS[name]()
        return captured(lambda: torch.autograd.grad(activation(x), x, gradient), device)

    return build


def steps(
    options: argparse.Namespace,
    network: str,
    width: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Callable[[str], Turn]:
    """Return what builds a training step of a network with one activation."""
    size = (options.batch_size, 3, 32, 32)
    images = torch.randn(size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, size[:1], device=device)

    def build(name: str) -> Turn:
        built = build_network(
            NETWORKS.resolve({"name": network, "width": width}),
            ACTIVATIONS.resolve(_NAMES.get(name, name)),
            3,
            10,
            torch.Generator().manual_seed(0),
        ).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(built.parameters(), lr=0.001, momentum=0.9)
        return captured(lambda: step(built, optimizer, images, labels, dtype), device)

    return build


def step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    dtype: torch.dtype,
) -> None:
    """Train on one batch."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(images)
    F.cross_entropy(logits.float(), labels).backward()
    optimizer.step()


def captured(turn: Turn, device: torch.device) -> Turn:
    """Return the turn as a CUDA graph, on a GPU; as it is, elsewhere."""
    if device.type != "cuda":
        return turn
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # to warm up: nothing may be compiled or searched for in a capture
            turn()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turn()
    return graph.replay


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What AdaReLU costs over ReLU.")
    parser.add_argument("--what", nargs="+", choices=["alone", "step"], default=["alone", "step"])
    parser.add_argument("--elements", type=int, default=2**24)
    parser.add_argument("--network", nargs="+", default=["vgg16_bn", "resnet18"])
    parser.add_argument("--width", nargs="+", type=float, default=[1.0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each that count")
    parser.add_argument("--repeats", type=int, default=1, help="in one turn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
