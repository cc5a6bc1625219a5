"""``bench``: how fast this machine trains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from adarelu_sweep.cli import options


@click.command("bench")
@options.home_option
@click.option(
    "--study",
    "study_file",
    metavar="STUDY.toml",
    type=click.Path(path_type=Path),
    help="Measure the arms of this study with its settings, and estimate how long it takes.",
)
@options.set_option
@click.option(
    "--network",
    "networks",
    metavar="NAME",
    multiple=True,
    help="Network to measure; repeatable.  [default: all that are built in]",
)
@click.option(
    "--activation",
    "activations",
    metavar="NAME",
    multiple=True,
    help="Activation to measure; repeatable.  [default: all that are built in]",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "bf16"]),
    multiple=True,
    help="Number format; repeatable.  [default: fp32]",
)
@click.option("--batch-size", type=int, metavar="N", help="Images of a step.  [default: 32]")
@options.gpus_option
@options.workers_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of a slot.  [default: its share of the cores]",
)
@click.option(
    "--pack",
    "packs",
    metavar="auto|N",
    multiple=True,
    help="Trials at once on a device, beside one, with one activation of each network; "
    "repeatable.  "
    "[default: auto: on a GPU 2, 4, 8 and so on, as long as that helps; on the CPU none]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="R",
    help="Turns of everything that is compared.  [default: what the time allows]",
)
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    metavar="S",
    help="About how long each kind of device is measured; what there is no time for is left out.  "
    "[default: some minutes; as long as it takes with --rounds]",
)
@options.data_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What to print; json is --json.",
)
@options.json_option
@click.option("--no-save", is_flag=True, help="Do not keep what is measured in the home.")
def bench_command(
    home: Path | None,
    study_file: Path | None,
    overrides: tuple[str, ...],
    networks: tuple[str, ...],
    activations: tuple[str, ...],
    precisions: tuple[str, ...],
    batch_size: int | None,
    gpus: str | None,
    workers: int | None,
    threads: int | None,
    packs: tuple[str, ...],
    rounds: int | None,
    seconds: int | None,
    data_dir: str | None,
    style: str,
    as_json: bool,
    no_save: bool,
) -> None:
    """Measure how fast each device of this machine trains and evaluates.

    Without --study, every built-in network with every built-in activation, on images of noise like
    CIFAR-10's, against a plain PyTorch loop. What is measured is kept in the home as it comes:
    'validate' then says how long a study takes that was given with --study.
    """
    from datetime import date

    from adarelu_sweep.benchmarking.cases import groups_of, study_of_built_in
    from adarelu_sweep.benchmarking.estimate import Estimate
    from adarelu_sweep.benchmarking.measured import Measurement, Measurements
    from adarelu_sweep.benchmarking.running import Effort, measure_devices
    from adarelu_sweep.datasets.origin import brought
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.outline import plug_ins
    from adarelu_sweep.placing.gpus import choose_gpus
    from adarelu_sweep.placing.machine import available_cores
    from adarelu_sweep.placing.slots import slots_for
    from adarelu_sweep.reporting import benchmark
    from adarelu_sweep.studies.reading import read_study

    effort = Effort(_sizes(packs), rounds, seconds, loaders=min(4, available_cores()))
    here = Home.locate(home)
    origin = here.data_origin(data_dir)
    if study_file is not None:
        if networks or activations or precisions or batch_size is not None:
            raise click.UsageError("a --study has its own settings: change them with --set")
        study = read_study(study_file, overrides)
        for line in plug_ins(study):  # before any of them runs
            click.echo(line, err=True)
        data_folder = brought(study.matrix.dataset, origin)
        groups = groups_of([study], data_folder)
    else:
        if overrides:
            raise click.UsageError("--set changes a study: name one with --study")
        size = 32 if batch_size is None else batch_size
        formats = dict.fromkeys(precisions or ["fp32"])
        built_in = [study_of_built_in(networks, activations, one, size) for one in formats]
        groups = groups_of(built_in, brought([], origin))
    chosen, warnings = choose_gpus(gpus)
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    slots = slots_for(built_in[0] if study_file is None else study, chosen, workers, threads)
    if not no_save:
        here.create()
        Measurements.read(here)  # one that is damaged is told of before anything is measured

    def keep(one: Measurement) -> None:
        if not no_save:
            Measurements.keep(here, [one])

    today = date.today()
    with _telling() as tell:
        devices = measure_devices(slots, groups, effort, today, tell, keep)
    newer = [one.measurement for device in devices for one in device.results]
    report = benchmark.Report(devices, today)
    if study_file is not None:
        known = Measurements() if no_save else Measurements.read(here)
        estimate = Estimate.of(study, slots, known.with_newer(newer), data_folder)
        report = benchmark.Report(devices, today, study.name, estimate)
    written = benchmark.as_json if as_json or style == "json" else benchmark.as_table
    click.echo(written(report), nl=False)


def _sizes(packs: Sequence[str]) -> list[int] | None:
    """Return the sizes of packs that were asked for, beside 1; None for auto."""
    from adarelu_sweep.placing.packing import AUTO, pack_size

    sizes = {size for given in packs if (size := pack_size(given)) is not None}
    return None if not sizes or AUTO in sizes else sorted(sizes - {1})


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Say on standard error what is measured: in place on a terminal, else line by line."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: click.echo(what, err=True)
        return
    with console.status("starting") as status:
        yield lambda what: status.update(Text(what))
