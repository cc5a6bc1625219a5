"""What is worth knowing before a night is spent: how many trials go at once, and slow bf16."""

from collections import defaultdict
from collections.abc import Iterable

from adarelu_sweep.benchmarking.cases import trial_of
from adarelu_sweep.benchmarking.measured import bf16_over_fp32
from adarelu_sweep.benchmarking.processor import has_bf16, processor_name
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.placing.packing import AUTO, measured_size
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.settings import TrialSettings


def advice(study: Study, slots: list[Slot], pack: int, home: Home, bench: str) -> list[str]:
    """Return what a launch says beforehand; ``bench`` is the command that measures the study."""
    warning = bf16_warning(study, slots, home, bench)
    packs = [f"packs: {line}" for line in pack_lines(study, slots, pack, home, bench)]
    return [*packs, f"Warning: {warning}"] if warning else packs


def pack_lines(study: Study, slots: list[Slot], pack: int, home: Home, bench: str) -> list[str]:
    """Say how many trials of an arm are trained at once, and why; of a CPU only if it was asked.

    ``pack`` is what was asked for, or ``AUTO``.
    """
    models = {slot.model: slot for slot in slots if slot.gpu}
    if not models and pack == AUTO:
        return []
    if len(study.seeds()) == 1:
        return ["1, as an arm has one seed"]
    lines = ["1 in the search"] if study.search else []
    if pack != AUTO:
        return [*lines, f"{pack}, as asked"]
    arms = _arms(study)
    for slot in models.values():
        lines += _lines_of(slot, arms, home, bench)
    return lines


def bf16_warning(study: Study, slots: list[Slot], home: Home, bench: str) -> str | None:
    """Say that bf16 is slower than fp32 on this machine's CPU, if a study asks for it there.

    What was measured decides; the processor's features do where that is missing. Of other machines'
    processors nothing is known.
    """
    tried = study.search.space.get("training.precision") if study.search else None
    if "bf16" not in (tried.extremes() if tried else [study.training.precision]):
        return None
    if all(slot.gpu or slot.node for slot in slots):
        return None
    name = processor_name()
    found = [bf16_over_fp32(home, name, arm) for arm in _arms(study)]
    if slow := sorted(pace for pace in found if pace and round(pace[0], 2) < 1):
        ratios = _range(f"{ratio:.2f}" for ratio, _ in slow)
        day = min(day for _, day in slow)
        return (
            f"bf16 on this processor ({name}) trains at {ratios} x the pace of fp32, as measured "
            f"here on {day}"
        )
    if None in found and has_bf16() is False:
        change = "" if study.training.precision == "bf16" else " --set training.precision=bf16"
        return (
            f"bf16 on this processor ({name}): it has no instructions for it, and without them "
            f"it can take ten times as long as fp32: measure both: {bench}{change}"
        )
    return None


def _arms(study: Study) -> list[TrialSettings]:
    return [trial_of(study, arm.dataset, arm.network, arm.activation) for arm in study.arms()]


def _lines_of(slot: Slot, arms: list[TrialSettings], home: Home, bench: str) -> list[str]:
    """Say what ``auto`` means on a slot's GPU: in one line, if it is the same for all networks."""
    if not slot.model:
        return ["1: of a cluster's GPUs the best size is not known: give --pack N"]
    sizes: dict[str, set[int]] = defaultdict(set)
    for arm in arms:
        size = measured_size(home, slot, arm)
        sizes[arm.network.label] |= {size} if size else set()
    networks: dict[str, list[str]] = defaultdict(list)
    for network, measured in sizes.items():
        networks[_range(map(str, sorted(measured)))].append(network)
    lines = []
    for sizes_of, those in networks.items():
        of = f" of {', '.join(those)}" if len(networks) > 1 else ""
        unknown = f"1{of}: the best size on {slot.model} is not known: {bench}"
        lines.append(f"{sizes_of}{of}, as measured on {slot.model}" if sizes_of else unknown)
    return lines


def _range(values: Iterable[str]) -> str:
    """Write the first and the last of some values; nothing of none."""
    several = list(values)
    return " to ".join(dict.fromkeys([*several[:1], *several[-1:]]))
