"""What a study file would do, in words, before anything is done."""

from math import ceil
from pathlib import Path

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.benchmarking.cases import trial_of
from adarelu_sweep.benchmarking.estimate import time_needed
from adarelu_sweep.datasets.sources import check
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.operating.advice import bf16_warning, pack_lines
from adarelu_sweep.operating.disk import DiskNeed, free_bytes
from adarelu_sweep.placing.gpus import choose_gpus
from adarelu_sweep.placing.packing import AUTO, Packing
from adarelu_sweep.placing.slots import slots_for
from adarelu_sweep.studies.power import power_lines
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.studies.search import Search
from adarelu_sweep.wording import count


def outline(
    study: Study,
    data_folder: Path,
    gpus: str | None,
    workers: int | None,
    pack: int | None = None,
    home: Home | None = None,
    bench: str = "adarelu-sweep bench",
) -> str:
    """Return the plan of a study on this machine, from its arms and trials to slots and disk.

    ``pack`` is how many trials of an arm a worker trains at once; None where that is to be chosen.
    ``home`` is where the study would be kept; it need not exist. Without it nothing is said of the
    time, packs, bf16 and the disk, which takes seconds. ``bench`` is the command that measures the
    study's arms.
    """
    matrix, training = study.matrix, study.training
    chosen, warnings = choose_gpus(gpus)
    slots = slots_for(study, chosen, workers)
    arms = len(list(study.arms()))
    seeds = study.seeds()
    trials = study.number_of_trials()
    lines = [
        f"{study.name}: {count(trials, 'trial')} of {count(training.epochs, 'epoch')}, "
        f"{count(trials * training.epochs, 'epoch')} in all",
        f"  networks     {', '.join(network.label for network in matrix.network)}",
        f"  activations  {', '.join(activation.label for activation in matrix.activation)}",
        f"  arms         {arms}, each with {count(len(seeds), 'seed')}",
        *(_search_lines(study, study.search) if study.search else []),
        f"  training     batch size {training.batch_size}, {training.optimizer.label}, "
        f"schedule {training.schedule.label}, {training.precision}",
    ]
    shown = power_lines(len(seeds), len(matrix.activation) - 1)
    lines += [f"  power        {line}" for line in shown]
    for name in matrix.dataset:
        status = check(name, data_folder)
        train, test = status.limited(study.data.train_limit, study.data.test_limit)
        steps = ceil(train / training.batch_size)
        where = status.where if status.present else "will be downloaded"
        lines.append(
            f"  data         {name}: {train} training and {test} test images, "
            f"{count(steps, 'step')} per epoch ({where})"
        )
    if note := study.data.subset_note():
        lines.append(f"  note         {note}")
    for slot in slots:
        lines.append(f"  slot {slot.index}       {slot.name}, {count(slot.threads, 'thread')}")
    if home is not None:
        time = time_needed(study, slots, home, data_folder, bench, pack or None)
        lines.append(f"  time         {time}")
        packs = pack_lines(study, slots, pack or AUTO, home, bench)
        lines += [f"  packs        {line}" for line in packs]
        if slow := bf16_warning(study, slots, home, bench):
            warnings.append(slow)
        in_hand = _in_hand(study, slots, Packing(pack or AUTO, home))
        if need := DiskNeed.of(study, data_folder, in_hand):
            lines += need.lines(free_bytes(home.root))
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in warnings)])


def _in_hand(study: Study, slots: list[Slot], packing: Packing) -> int:
    """Return how many trials the workers could train at once: each as many as it may of one arm."""
    arms = [trial_of(study, arm.dataset, arm.network, arm.activation) for arm in study.arms()]
    return sum(max(packing.size(slot, arm) for arm in arms) for slot in slots)


def plug_ins(study: Study) -> list[str]:
    """Return a line for everything in a study whose code is not built in: it runs no other."""
    matrix = study.matrix
    parts = [(NETWORKS, network) for network in matrix.network]
    parts += [(ACTIVATIONS, activation) for activation in matrix.activation]
    return [
        f"plug-in {registry.kind} {part.label}: code of {origin}"
        for registry, part in parts
        if (origin := registry.origin(part))
    ]


def _search_lines(study: Study, search: Search) -> list[str]:
    """Say how every arm is tuned before its seeds are trained."""
    pruner = "" if search.pruner.name == "none" else f" and {search.pruner.label}"
    lines = [
        f"  search       {count(search.trials, 'trial')} of every arm by {search.sampler.label}"
        f"{pruner}, measured on {search.validation_fraction:.3g} of the training images",
    ]
    lines += [f"  space        {key}: {dimension}" for key, dimension in search.space.items()]
    confirmed = ", ".join(map(str, study.confirm_seeds()))
    return [*lines, f"  confirm      every arm's best setting with the seeds {confirmed}"]
