"""What ``bench`` measured, as tables and as JSON."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Any

from adarelu_sweep.benchmarking.estimate import Estimate
from adarelu_sweep.benchmarking.measured import Conditions, Spread
from adarelu_sweep.benchmarking.processor import processor_name
from adarelu_sweep.benchmarking.results import DeviceResults, PlainResult, Result
from adarelu_sweep.reporting import render
from adarelu_sweep.reporting.table import NOTHING, Column, Table, fixed
from adarelu_sweep.wording import count

_QUARTILES_FROM = 3
"""Rounds; between fewer values lies no half of them."""


@dataclass(frozen=True)
class Report:
    """All that one call has measured."""

    devices: Sequence[DeviceResults]
    today: date
    study: str | None = None
    """The study that was measured, if one was."""
    estimate: Estimate | None = None


def as_table(report: Report) -> str:
    """Return it for a terminal, ending in a line break."""
    lines = [render.as_text(table) for device in report.devices for table in _tables(device)]
    lines += [f"left out: {what}" for device in report.devices for what in device.left_out]
    if report.estimate is not None:
        lines.append(f"{report.study}: {report.estimate}")
    elif report.study is not None:
        lines.append(f"{report.study}: how long it takes is not known, for what was left out")
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> str:
    """Return it as JSON, ending in a line break."""
    estimate = report.estimate
    document = {
        "date": report.today.isoformat(),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "versions": report.devices[0].versions if report.devices else {},
        "measurements": [
            _measurement(result) for device in report.devices for result in device.results
        ],
        "plain_loop": [_plain(plain) for device in report.devices for plain in device.plain],
        "left_out": [what for device in report.devices for what in device.left_out],
        "estimate": None
        if estimate is None
        else {
            "study": report.study,
            "slots": estimate.slots,
            "seconds": estimate.seconds,
            "seconds_in_packs": estimate.seconds_in_packs,
            "measured": estimate.measured.isoformat(),
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _measurement(result: Result) -> dict[str, Any]:
    one = result.measurement
    return {
        **one.conditions.model_dump(),
        "rounds": result.rounds,
        "training_images_per_second": one.training_images_per_second.model_dump(),
        "evaluation_images_per_second": one.evaluation_images_per_second.model_dump(),
        "training_over_plain_loop": _dumped(result.over_plain_loop),
        "training_step_over_relu": _dumped(result.step_over_relu),
        "training_over_fp32": _dumped(result.over_fp32),
        "training_over_smaller_pack": _dumped(result.over_smaller_pack),
        "training_median_over_plain_loops": result.pack_over_plain_loop,
    }


def _plain(plain: PlainResult) -> dict[str, Any]:
    told = {"device", "threads", "network", "activation", "height", "width", "channels", "classes"}
    told |= {"batch_size", "precision", "optimizer", "augmentation"}
    return {
        **plain.conditions.model_dump(include=told),
        "loader_processes": plain.loaders,
        "rounds": plain.rounds,
        "training_images_per_second": plain.training_images_per_second.model_dump(),
    }


def _dumped(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else spread.model_dump()


def _tables(device: DeviceResults) -> Iterable[Table]:
    """Yield a table for every precision, image shape and batch size, then that of the packs."""
    alone = [result for result in device.results if result.measurement.conditions.pack == 1]
    for title, results in groupby(alone, lambda result: _title(result.measurement.conditions)):
        plain = [one for one in device.plain if _title(one.conditions) == title]
        yield _alone(title, list(results), plain)
    packs = [result for result in device.results if result.measurement.conditions.pack > 1]
    for title, results in groupby(packs, lambda result: _title(result.measurement.conditions)):
        yield _packs(title, list(results), alone)


def _title(conditions: Conditions) -> str:
    threads = "" if conditions.threads is None else f", {count(conditions.threads, 'thread')}"
    return (
        f"{conditions.device}{threads}: {conditions.precision}, batch size "
        f"{conditions.batch_size}, images of {conditions.height} x {conditions.width} x "
        f"{conditions.channels}, {conditions.classes} classes"
    )


def _alone(title: str, results: list[Result], plain: list[PlainResult]) -> Table:
    columns = [Column("network", False), Column("activation", False)]
    columns += [Column("training (images/s)"), Column("evaluation (images/s)")]
    columns += [Column("training over the plain loop's"), Column("a step over ReLU's")]
    rows = []
    for network, own in groupby(results, lambda result: result.measurement.conditions.network):
        for result in own:
            one = result.measurement
            rows.append(
                [
                    network,
                    one.conditions.activation,
                    _rate(one.training_images_per_second, result.rounds),
                    _rate(one.evaluation_images_per_second, result.rounds),
                    _ratio(result.over_plain_loop, result.rounds),
                    _ratio(result.step_over_relu, result.rounds),
                ]
            )
        for loop in plain:
            if loop.conditions.network == network:
                rate = _rate(loop.training_images_per_second, loop.rounds)
                label = f"{loop.conditions.activation}, plain loop"
                rows.append([network, label, rate, NOTHING, NOTHING, NOTHING])
    notes = [_rounds(results, "in which all take turns")]
    if plain:
        notes.append(
            "The plain loop: PyTorch as it is usually written, eager, with a DataLoader of "
            f"{count(plain[0].loaders, 'process', 'processes')}."
        )
    for result in results:
        if result.over_fp32:
            arm = result.measurement.conditions
            notes.append(
                f"{arm.precision} over fp32, training {arm.network} with {arm.activation}: "
                f"{_ratio(result.over_fp32, result.rounds)}."
            )
    return Table("bench", title, columns, rows, notes)


def _packs(title: str, results: list[Result], alone: list[Result]) -> Table:
    columns = [Column("network", False), Column("activation", False), Column("pack")]
    columns += [Column("training, in all (images/s)"), Column("evaluation (images/s)")]
    columns += [Column("training over the plain loop's")]
    columns += [Column("training over the next smaller pack's")]
    packed = {_arm(result) for result in results}
    ones = [result for result in alone if _arm(result) in packed]
    rows = []
    for result in sorted(
        [*ones, *results], key=lambda result: (*_arm(result), result.measurement.conditions.pack)
    ):
        one = result.measurement
        rows.append(
            [
                one.conditions.network,
                one.conditions.activation,
                str(one.conditions.pack),
                _rate(one.training_images_per_second, result.rounds),
                _rate(one.evaluation_images_per_second, result.rounds),
                _ratio(result.over_plain_loop, result.rounds)
                if one.conditions.pack == 1
                else fixed(result.pack_over_plain_loop),
                _ratio(result.over_smaller_pack, result.rounds),
            ]
        )
    turns = _rounds(results, "in which a pack takes turns with the next smaller one")
    notes = [f"{turns} One alone stands here as in the table above."]
    if any(result.pack_over_plain_loop for result in results):
        notes.append(
            "Over the plain loop's, a pack's is a ratio of medians: the plain loop has its turns "
            "in the rounds of the table above."
        )
    return Table("bench_packs", f"In packs, {title}", columns, rows, notes)


def _rounds(results: list[Result], which: str) -> str:
    """Say what the numbers are, in which rounds, and which of them have quartiles."""
    numbers = sorted({result.rounds for result in results})
    least, most = numbers[0], numbers[-1]
    told = count(most, "round") if least == most else f"{least} to {count(most, 'round')}"
    if most < _QUARTILES_FROM:
        return f"Medians of {told} {which}: too few for quartiles."
    some = "" if least >= _QUARTILES_FROM else f" of {_QUARTILES_FROM} or more"
    return f"Medians of {told} {which}, with the quartiles{some}."


def _arm(result: Result) -> tuple[str, str, str]:
    conditions = result.measurement.conditions
    return _title(conditions), conditions.network, conditions.activation


def _rate(spread: Spread, rounds: int) -> str:
    """Write images per second, with the quartiles."""
    digits = 0 if spread.median >= 100 else 1
    return _written(spread, digits, rounds)


def _ratio(spread: Spread | None, rounds: int) -> str:
    return NOTHING if spread is None else _written(spread, 2, rounds)


def _written(spread: Spread, digits: int, rounds: int) -> str:
    if rounds < _QUARTILES_FROM:
        return f"{spread.median:.{digits}f}"
    low, high = f"{spread.lower_quartile:.{digits}f}", f"{spread.upper_quartile:.{digits}f}"
    return f"{spread.median:.{digits}f} ({low} to {high})"
