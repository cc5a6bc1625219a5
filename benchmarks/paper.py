"""What the measurements that ``bench`` kept in a home come to for the AdaReLU paper.

The hours of its 480 trainings, and how much of the device's matrix units its networks use in packs
of the best size, beside products of large matrices measured here. Needs what ``bench --study``
measured of ``paper-mnist`` and ``paper-cifar10``; CIFAR-100's trainings count as CIFAR-10's, which
have as many images of the same shape.
"""

import argparse
from datetime import date
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.benchmarking.cases import REFERENCE, trial_of
from adarelu_sweep.benchmarking.estimate import Estimate
from adarelu_sweep.benchmarking.measured import Conditions, Measurements, best
from adarelu_sweep.components import Component
from adarelu_sweep.datasets.shape import Shape, shape_of
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.networks.factory import build_network
from adarelu_sweep.placing.gpus import choose_gpus
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.placing.slots import make_slots
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.schema import Study
from benchmarks.machine import machine
from benchmarks.matmul import add_options, rates

STUDIES = Path(__file__).parents[1] / "studies"
PRECISIONS = {"fp32": "fp32 as TF32", "bf16": "bf16"}  # and the product each is compared with
TIMES = {"paper-mnist": 1, "paper-cifar10": 2}  # that a study's trainings count


def main() -> None:
    """Print both as Markdown tables."""
    options = parsed()
    known = Measurements.read(Home(options.home))
    chosen, _ = choose_gpus(options.gpus)
    slots = make_slots(chosen, 1, available_cores())
    print(f"{date.today()}; {machine(torch.device(options.device))}\n")
    print("| the paper's 480 trainings | one by one (h) | in packs (h) |\n| --- | --- | --- |")
    for precision in PRECISIONS:
        print(f"| {precision} | {' | '.join(hours(precision, options.set, slots, known))} |")
    products = dict(rates(torch.device(options.device), options.size))
    print("\n| CIFAR-10, relu | best pack | training (images/s) | TFLOP/s | of the product's |")
    print("| --- | --- | --- | --- | --- |")
    for precision, product in PRECISIONS.items():
        study = paper("paper-cifar10", precision, options.set)
        for network in study.matrix.network:
            label = f"{network.label}, {precision}"
            print(f"| {label} | {used(study, network, slots[0], known, products[product])} |")


def paper(name: str, precision: str, changes: list[str]) -> Study:
    """Return a study of the paper in a precision, with further changes as ``--set`` takes them."""
    changes = [f"training.precision={precision}", *changes]
    return read_study(STUDIES / f"{name}.toml", changes)


def hours(precision: str, changes: list[str], slots: list[Slot], known: Measurements) -> list[str]:
    """Return the hours of all trainings, one by one and in packs of the best size."""
    seconds = [0.0, 0.0]
    for name, times in TIMES.items():
        study = paper(name, precision, changes)
        if (found := Estimate.of(study, slots, known, Path())) is None:
            return [f"not known: {name} was not measured", ""]
        seconds[0] += times * found.seconds
        seconds[1] += times * found.seconds_in_packs
    return [f"{each / 3600:.1f}" for each in seconds]


def used(study: Study, network: Component, slot: Slot, known: Measurements, product: float) -> str:
    """Return the cells of a network's row."""
    [dataset] = study.matrix.dataset
    shape = shape_of(dataset, Path())
    trial = trial_of(study, dataset, network, ACTIVATIONS.resolve(REFERENCE))
    if not (packs := known.packs(Conditions.of(slot, trial, shape))):
        return "not measured | | | "
    one = best(packs)
    rate = one.training_images_per_second.median
    teraflops = rate * operations(network, shape) / 1e12
    return (
        f"{one.conditions.pack} | {rate:.0f} | {teraflops:.3g} | {100 * teraflops / product:.0f} %"
    )


def operations(network: Component, shape: Shape) -> float:
    """Return the floating point operations of a training step, for each image.

    A multiplication and an addition are two, as in what is said of a device.
    """
    images = torch.zeros(2, shape.channels, shape.height, shape.width)
    built = build_network(
        network,
        ACTIVATIONS.resolve(REFERENCE),
        shape.channels,
        shape.classes,
        torch.Generator().manual_seed(0),
    )
    with FlopCounterMode(display=False) as counter:
        built(images).sum().backward()
    return counter.get_total_flops() / len(images)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--home", type=Path, required=True, help="where bench kept it")
    parser.add_argument("--gpus", default="none", help="as bench had it")
    parser.add_argument("--set", action="append", default=[], help="as bench had it, but precision")
    return parser.parse_args()


if __name__ == "__main__":
    main()
