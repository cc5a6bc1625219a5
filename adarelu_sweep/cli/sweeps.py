"""``launch``, ``resume`` and ``validate``."""

import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from adarelu_sweep.cli import options
from adarelu_sweep.cli.background import Given, leave, run_in_background, written
from adarelu_sweep.signals import exit_code

if TYPE_CHECKING:
    from rich.console import Console

    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.sweep import Extend
    from adarelu_sweep.placing.places import LauncherName
    from adarelu_sweep.recording.ledger import StudyLedger
    from adarelu_sweep.reporting.results import Results
    from adarelu_sweep.supervising.supervisor import Ending
    from adarelu_sweep.tracking.study_report import StudyReport

_STUDY_FILE = Path("STUDY.toml")  # stands for one that a resume is not given


@click.command("launch")
@options.study_file_argument()
@options.home_option
@options.storage_option
@click.option("--name", help="Name of the study, instead of the file's.")
@options.set_option
@options.gpus_option
@options.workers_option
@options.launcher_option
@options.ray_address_option
@options.gpus_per_worker_option
@options.pack_option
@options.data_option
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    help="MLflow server to log to.  [default: $MLFLOW_TRACKING_URI, else the home's own]",
)
@options.detach_option
@options.reporting_option
@click.pass_context
def launch_command(
    ctx: click.Context,
    study_file: Path,
    home: Path | None,
    name: str | None,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    launcher: "LauncherName | None",
    ray_address: str | None,
    gpus_per_worker: float | None,
    pack: str | None,
    data_dir: str | None,
    tracking_uri: str | None,
    detach: bool,
    report_to: int | None,
) -> None:
    """Launch the study that STUDY.toml describes and train until it is done.

    Ctrl-C stops after the step in hand; 'adarelu-sweep resume' goes on from there.
    """
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.sweep import Machine, launch
    from adarelu_sweep.placing.packing import pack_size
    from adarelu_sweep.studies.reading import read_study
    from adarelu_sweep.supervising.running import Screen
    from adarelu_sweep.tracking.address import refuse_password

    if ctx.get_parameter_source("tracking_uri") is ParameterSource.COMMANDLINE:
        refuse_password(tracking_uri or "")
    study = read_study(study_file, overrides, name)
    if detach:
        given: dict[str, Given] = {"--home": home, "--name": name, "--set": overrides}
        given |= {"--gpus": gpus, "--workers": workers, "--pack": pack, "--data-dir": data_dir}
        given |= {"--launcher": launcher, "--ray-address": ray_address}
        given |= {"--gpus-per-worker": gpus_per_worker}
        run_in_background(ctx, study.name, [study_file], given, tracking_uri)
        return
    here = Home.locate(home)
    source = study_file.read_text(encoding="utf-8")
    ray = (launcher, ray_address, gpus_per_worker)
    machine, report = Machine(gpus, workers, data_dir, pack_size(pack), *ray), _Reporter(here)
    screen = Screen(report, _console(), leave(report_to))
    bench = _bench(study_file, overrides, gpus, workers, home, data_dir)
    ledger, ending = launch(study, source, here, machine, tracking_uri or None, screen, bench)
    _conclude(ctx, ledger, ending, here, report)


@click.command("resume")
@click.argument("name")
@options.home_option
@options.storage_option
@click.option(
    "--study",
    "study_file",
    metavar="STUDY.toml",
    type=click.Path(path_type=Path),
    help="Go on with this study file, which adds seeds, activations or others, or trials.",
)
@options.set_option
@options.gpus_option
@options.workers_option
@options.launcher_option
@options.ray_address_option
@options.gpus_per_worker_option
@options.pack_option
@options.data_option
@click.option("--retry-failed", is_flag=True, help="Try again what failed, from its checkpoint.")
@options.detach_option
@options.reporting_option
@click.pass_context
def resume_command(
    ctx: click.Context,
    name: str,
    home: Path | None,
    study_file: Path | None,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    launcher: "LauncherName | None",
    ray_address: str | None,
    gpus_per_worker: float | None,
    pack: str | None,
    data_dir: str | None,
    retry_failed: bool,
    detach: bool,
    report_to: int | None,
) -> None:
    """Train what is left of the study NAME, each trial from its last checkpoint.

    With --study or --set, what is added to the study is trained, too.
    """
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.sweep import Machine, resume
    from adarelu_sweep.placing.packing import pack_size
    from adarelu_sweep.supervising.running import Screen

    if detach:
        given: dict[str, Given] = {"--home": home, "--study": study_file, "--set": overrides}
        given |= {"--gpus": gpus, "--workers": workers, "--pack": pack, "--data-dir": data_dir}
        given |= {"--launcher": launcher, "--ray-address": ray_address}
        given |= {"--gpus-per-worker": gpus_per_worker}
        given |= {"--retry-failed": retry_failed}
        run_in_background(ctx, name, [name], given, os.environ.get("MLFLOW_TRACKING_URI"))
        return
    here = Home.locate(home)
    ray = (launcher, ray_address, gpus_per_worker)
    machine, report = Machine(gpus, workers, data_dir, pack_size(pack), *ray), _Reporter(here)
    extend = _extend(study_file, overrides)
    screen = Screen(report, _console(), leave(report_to))
    bench = _bench(study_file or _STUDY_FILE, overrides, gpus, workers, home, data_dir)
    ledger, ending = resume(name, here, machine, screen, extend, retry_failed, bench)
    _conclude(ctx, ledger, ending, here, report)


@click.command("validate")
@options.study_file_argument()
@options.home_option
@options.set_option
@options.gpus_option
@options.workers_option
@options.pack_option
@options.data_option
def validate_command(
    study_file: Path,
    home: Path | None,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    pack: str | None,
    data_dir: str | None,
) -> None:
    """Check STUDY.toml and show its plan: trials, epochs, slots, disk. Trains nothing."""
    from adarelu_sweep.datasets.origin import brought
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.outline import outline, plug_ins
    from adarelu_sweep.operating.rehearsing import rehearse
    from adarelu_sweep.placing.packing import pack_size
    from adarelu_sweep.studies.reading import read_study

    study = read_study(study_file, overrides)
    here = Home.locate(home)
    for line in plug_ins(study):  # before any of them runs
        click.echo(line)
    bench = _bench(study_file, overrides, gpus, workers, home, data_dir)
    data_folder = brought(study.matrix.dataset, here.data_origin(data_dir))
    plan = outline(study, data_folder, gpus, workers, pack_size(pack), here, bench)
    rehearse(study, data_folder)
    click.echo(plan)


def _bench(
    study_file: Path,
    overrides: tuple[str, ...],
    gpus: str | None,
    workers: int | None,
    home: Path | None,
    data_dir: str | None,
) -> str:
    """Return the command that measures a study's arms where it is to be trained."""
    given: dict[str, Given] = {"--set": overrides, "--gpus": gpus, "--workers": workers}
    given |= {"--home": home, "--data-dir": data_dir}
    return shlex.join(["adarelu-sweep", "bench", "--study", str(study_file), *written(given)])


def _extend(study_file: Path | None, overrides: tuple[str, ...]) -> "Extend | None":
    """Return what changes the plan of a study, if anything is to."""
    from adarelu_sweep.studies.extension import extended

    if study_file is None and not overrides:
        return None
    return lambda record: extended(record, study_file, overrides)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


class _Reporter:
    """Writes the report of a study's end, and keeps the results for what is printed then."""

    def __init__(self, home: "Home") -> None:
        self._home = home
        self.results: Results | None = None
        self.page: Path | None = None
        """The report as a page, once it is written."""

    def __call__(self, ledger: "StudyLedger", ending: "Ending") -> "StudyReport":
        """Write the report; without figures and in haste when the study was interrupted."""
        from adarelu_sweep.reporting.collecting import collect
        from adarelu_sweep.reporting.report import write_report
        from adarelu_sweep.reporting.study_report import study_report

        interrupted = ending.state == "interrupted"
        self.results = collect(ledger, self._home, state=ending.state, in_haste=interrupted)
        settings = self.results.study.report
        folder = self._home.report_folder(self.results.name)
        write_report(self.results, folder, settings.figures and not interrupted)
        self.page = folder / "report.html"
        return study_report(self.results, folder)


def _conclude(
    ctx: click.Context,
    ledger: "StudyLedger",
    ending: "Ending",
    home: "Home",
    report: _Reporter,
) -> None:
    """Print the results and what to do next, and exit as the study ended."""
    from adarelu_sweep.reporting.collecting import collect
    from adarelu_sweep.reporting.formats import as_table
    from adarelu_sweep.tracking.address import charts_address
    from adarelu_sweep.tracking.delivered import Delivered
    from adarelu_sweep.tracking.server import find_server

    record = ledger.record
    name = record.study.name
    if ending.state == "interrupted":
        click.echo(f"Interrupted. Go on with: adarelu-sweep resume {name}", err=True)
        ctx.exit(exit_code(ending.signal or signal.SIGINT))
    click.echo(as_table(report.results or collect(ledger, home)), nl=False)
    if report.page is not None:
        click.echo(f"The whole report: {report.page}")
    server = find_server(home)
    url = record.tracking_uri or (server.url if server else None)
    if url:
        delivered = Delivered.read(home.study_folder(name), record.uid)
        charts = charts_address(url, delivered.experiment if delivered else "")
        click.echo(f"Browse it, experiment {name!r}: {charts}")
        if not record.tracking_uri:
            click.echo("The server stays up until 'adarelu-sweep server stop'.")
    else:
        click.echo("Browse it with: adarelu-sweep ui")
    ctx.exit(1 if ending.state == "failed" else 0)
