"""``launch``, ``resume`` and ``validate``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adarelu_sweep.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from adarelu_sweep.home import Home
    from adarelu_sweep.supervising.ledger import StudyLedger
    from adarelu_sweep.supervising.supervisor import Ending
    from adarelu_sweep.tracking.study_report import StudyReport


@click.command("launch")
@options.study_file_argument()
@options.home_option
@click.option("--name", help="Name of the study, instead of the file's.")
@options.set_option
@options.gpus_option
@options.workers_option
@options.data_option
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    help="MLflow server to log to.  [default: $MLFLOW_TRACKING_URI, else the home's own]",
)
@click.pass_context
def launch_command(
    ctx: click.Context,
    study_file: Path,
    home: Path | None,
    name: str | None,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    data_dir: Path | None,
    tracking_uri: str | None,
) -> None:
    """Launch the study that STUDY.toml describes and train until it is done.

    Ctrl-C stops after the step in hand; 'adarelu-sweep resume' goes on from there.
    """
    from adarelu_sweep.home import Home
    from adarelu_sweep.studies.reading import read_study
    from adarelu_sweep.supervising.sweep import Machine, launch

    study = read_study(study_file, overrides, name)
    here = Home.locate(home)
    source = study_file.read_text(encoding="utf-8")
    machine = Machine(gpus, workers, data_dir)
    tables = partial(_report, here)
    ledger, ending = launch(study, source, here, machine, tracking_uri or None, tables, _console())
    _conclude(ctx, ledger, ending, here)


@click.command("resume")
@click.argument("name")
@options.home_option
@options.gpus_option
@options.workers_option
@options.data_option
@click.pass_context
def resume_command(
    ctx: click.Context,
    name: str,
    home: Path | None,
    gpus: str | None,
    workers: int | None,
    data_dir: Path | None,
) -> None:
    """Train what is left of the study NAME, each trial from its last checkpoint."""
    from adarelu_sweep.home import Home
    from adarelu_sweep.supervising.sweep import Machine, resume

    here = Home.locate(home)
    machine = Machine(gpus, workers, data_dir)
    ledger, ending = resume(name, here, machine, partial(_report, here), _console())
    _conclude(ctx, ledger, ending, here)


@click.command("validate")
@options.study_file_argument()
@options.home_option
@options.set_option
@options.gpus_option
@options.workers_option
@options.data_option
def validate_command(
    study_file: Path,
    home: Path | None,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    data_dir: Path | None,
) -> None:
    """Check STUDY.toml and show its plan: trials, epochs, slots. Trains nothing."""
    from adarelu_sweep.home import Home
    from adarelu_sweep.studies.reading import read_study
    from adarelu_sweep.supervising.outline import outline
    from adarelu_sweep.supervising.rehearsing import rehearse

    study = read_study(study_file, overrides)
    data_folder = Home.locate(home).data_folder(data_dir)
    plan = outline(study, data_folder, gpus, workers)
    rehearse(study, data_folder)
    click.echo(plan)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _report(home: "Home", ledger: "StudyLedger", ending: "Ending") -> "StudyReport | None":
    """Write the report of a study's end; in haste, without figures, when it was interrupted."""
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.reporting.report import write_report
    from adarelu_sweep.reporting.results import collect
    from adarelu_sweep.reporting.study_report import study_report

    interrupted = ending.state == "interrupted"
    results = collect(ledger, home, state=ending.state, in_haste=interrupted)
    folder = home.report_folder(results.name)
    try:
        write_report(results, folder, results.study.report.figures and not interrupted)
    except UserError as error:
        click.echo(f"Warning: {error}", err=True)
        return None
    return study_report(results, folder)


def _conclude(ctx: click.Context, ledger: "StudyLedger", ending: "Ending", home: "Home") -> None:
    """Print the results and what to do next, and exit as the study ended."""
    from adarelu_sweep.reporting.formats import as_table
    from adarelu_sweep.reporting.results import collect
    from adarelu_sweep.tracking.server import find_server

    record = ledger.record
    name = record.study.name
    if ending.state == "interrupted":
        click.echo(f"Interrupted. Go on with: adarelu-sweep resume {name}", err=True)
        ctx.exit(128 + (ending.signal or 2))
    click.echo(as_table(collect(ledger, home)), nl=False)
    click.echo(f"The whole report: {home.report_folder(name) / 'report.html'}")
    server = find_server(home)
    if record.tracking_uri:
        click.echo(f"Browse it at {record.tracking_uri}, experiment {name!r}.")
    elif server:
        click.echo(f"Browse it at {server.url}, experiment {name!r}.")
        click.echo("The server stays up until 'adarelu-sweep server stop'.")
    else:
        click.echo("Browse it with: adarelu-sweep ui")
    ctx.exit(1 if ending.state == "failed" else 0)
