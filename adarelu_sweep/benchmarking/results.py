"""What the measuring of a device gave: throughputs, and their ratios round by round."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from statistics import median

from adarelu_sweep.benchmarking.cases import REFERENCE
from adarelu_sweep.benchmarking.measured import Conditions, Measurement, Spread
from adarelu_sweep.benchmarking.messages import Begun, Group, LeftOut, Measured, Order, Said
from adarelu_sweep.launching.launcher import Slot


@dataclass(frozen=True)
class Result:
    """An arm alone or in packs; every ratio but one is of turns in the same round."""

    measurement: Measurement
    rounds: int
    over_plain_loop: Spread | None = None
    """Training throughput over that of the plain loop, whichever activation that trains."""
    step_over_relu: Spread | None = None
    """Seconds of a training step over those of ReLU's; None of that itself."""
    over_smaller_pack: Spread | None = None
    """Training throughput over that of the next smaller pack that was measured."""
    over_fp32: Spread | None = None
    """Training throughput over that of the same arm in fp32."""
    pack_over_plain_loop: float | None = None
    """A pack's median training throughput over the plain loop's, which had rounds of its own."""


@dataclass(frozen=True)
class PlainResult:
    """The plain loop's training."""

    conditions: Conditions
    loaders: int
    training_images_per_second: Spread
    rounds: int


@dataclass
class DeviceResults:
    """All that was measured on one device."""

    results: list[Result] = field(default_factory=list)
    plain: list[PlainResult] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def results_of(slot: Slot, order: Order, said: Iterable[Said], today: date) -> DeviceResults:
    """Put together what the process said that measured a slot's device."""
    device = DeviceResults()
    measured: list[Measured] = []
    for message in said:
        if isinstance(message, Begun):
            device.versions = message.versions
        elif isinstance(message, LeftOut):
            device.left_out.append(message.what)
        elif isinstance(message, Measured):
            measured.append(message)
    fp32 = {one.group: one for one in measured if one.in_fp32}
    measured = [one for one in measured if not one.in_fp32]
    for one in measured:
        group = order.groups[one.group]
        alone = [m for m in measured if m.group == one.group and m.pack == 1]
        rounds = len(one.training)
        if one.plain:
            spread = Spread.of(one.training)
            conditions = _conditions(slot, order, one)
            device.plain.append(PlainResult(conditions, order.loaders, spread, rounds))
            continue
        measurement = measurement_of(slot, order, one, device.versions, today)
        plain = next((m.training for m in alone if m.plain), None)
        if one.pack > 1:
            gain = _ratio(one.training, one.smaller_pack)
            over_plain_loop = median(one.training) / median(plain) if plain else None
            device.results.append(
                Result(
                    measurement,
                    rounds,
                    over_smaller_pack=gain,
                    pack_over_plain_loop=over_plain_loop,
                )
            )
            continue
        relu = next((m for m in alone if _is_reference(m, group)), None)
        over_plain = _ratio(one.training, plain) if plain else None
        over_relu = _ratio(relu.training, one.training) if relu not in (None, one) else None
        same = fp32.get(one.group) if one.arm == group.reference else None
        over_fp32 = _ratio(one.training, same.training) if same else None
        device.results.append(
            Result(measurement, rounds, over_plain, over_relu, over_fp32=over_fp32)
        )
    return device


def measurement_of(
    slot: Slot, order: Order, one: Measured, versions: dict[str, str], today: date
) -> Measurement:
    """Return what is kept of what was measured of an arm in a slot."""
    return Measurement(
        conditions=_conditions(slot, order, one),
        training_images_per_second=Spread.of(one.training),
        evaluation_images_per_second=Spread.of(one.evaluation),
        measured=today,
        versions=versions,
    )


def _conditions(slot: Slot, order: Order, one: Measured) -> Conditions:
    group = order.groups[one.group]
    settings = (group.in_fp32 if one.in_fp32 else None) or group.arms[one.arm]
    return Conditions.of(slot, settings, group.shape, one.pack)


def _is_reference(measured: Measured, group: Group) -> bool:
    return not measured.plain and group.arms[measured.arm].activation.label == REFERENCE


def _ratio(numerators: list[float], denominators: list[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])
