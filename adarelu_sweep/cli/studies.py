"""``status``, ``list`` and ``report``: looking at studies, whatever state they are in."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adarelu_sweep.cli import options

if TYPE_CHECKING:
    from adarelu_sweep.home import Home
    from adarelu_sweep.recording.ledger import StudyLedger
    from adarelu_sweep.supervising.state import StudyState
    from adarelu_sweep.tracking.study_report import StudyReport


@click.command("status")
@click.argument("name", required=False)
@options.home_option
@options.storage_option
@options.json_option
@click.option("--watch", is_flag=True, help="Go on as long as the study runs.")
def status_command(name: str | None, home: Path | None, as_json: bool, watch: bool) -> None:
    """Show where the study NAME stands; without a name, the newest study.

    With --watch and --json, a line of JSON for every change.
    """
    from adarelu_sweep.cli.watching import watch as watch_study
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.home import Home
    from adarelu_sweep.recording.ledger import Ledger
    from adarelu_sweep.supervising.state import state_of

    here = Home.locate(home)
    ledger = Ledger.existing(here.database)
    names = ledger.names()
    if name is None and not names:
        raise UserError(f"no studies in {here.root}: launch one, or give another --home")
    shown = name or names[-1]

    def look() -> "StudyState":
        return state_of(ledger.open(shown), here)  # anew: it may have grown, or be gone

    if watch:
        watch_study(look, as_json)
        return
    state = look()
    click.echo(json.dumps(state.as_dict(), indent=2) if as_json else state)


@click.command("list")
@options.home_option
@options.storage_option
@options.json_option
@click.pass_context
def list_command(ctx: click.Context, home: Path | None, as_json: bool) -> None:
    """List the studies of a home, oldest first; exit 1 if one of them cannot be read."""
    from adarelu_sweep.home import Home

    states, unreadable = _states(Home.locate(home))
    if as_json:
        click.echo(json.dumps([state.as_dict() for state in states], indent=2))
    elif states or not unreadable:
        click.echo("\n".join(map(str, states)) or "no studies yet")
    for complaint in unreadable:
        click.echo(complaint, err=True)
    ctx.exit(1 if unreadable else 0)


@click.command("report")
@click.argument("name")
@options.home_option
@options.storage_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write.  [default: HOME/reports/NAME]",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--baseline",
    metavar="LABEL",
    help="Activation to compare the others with.  [default: relu, else the first]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Test accuracy that counts as converged.  [default: 95 % of the baseline's]",
)
@click.option("--no-figures", is_flag=True, help="Write text only, at once.")
@click.option("--no-log", is_flag=True, help="Do not log the report on the study's MLflow run.")
def report_command(
    name: str,
    home: Path | None,
    output: Path | None,
    style: str,
    baseline: str | None,
    threshold: float | None,
    no_figures: bool,
    no_log: bool,
) -> None:
    """Write the report of the study NAME, finished or not, and print its results.

    The report is logged on the study's run in MLflow too.
    """
    from adarelu_sweep.home import Home, resolved
    from adarelu_sweep.privacy import as_the_user_has_it
    from adarelu_sweep.recording.ledger import Ledger
    from adarelu_sweep.reporting.collecting import collect
    from adarelu_sweep.reporting.document import as_json
    from adarelu_sweep.reporting.formats import as_csv, as_markdown, as_table
    from adarelu_sweep.reporting.report import write_report
    from adarelu_sweep.reporting.study_report import study_report

    here = Home.locate(home)
    ledger = Ledger.existing(here.database).open(name)
    results = collect(ledger, here, baseline, threshold)
    folder = resolved(output) if output else here.report_folder(name)
    with as_the_user_has_it() if output else nullcontext():
        write_report(results, folder, figures=not no_figures)
    formats = {"table": as_table, "markdown": as_markdown, "csv": as_csv, "json": as_json}
    click.echo(formats[style](results), nl=False)
    click.echo(f"The whole report: {folder / 'report.html'}", err=True)
    if not no_log:
        _log(ledger, here, results.state, study_report(results, folder))


def _log(ledger: "StudyLedger", home: "Home", state: str, report: "StudyReport") -> None:
    """Log a report on the study's run; where that fails, it is written all the same.

    Of a complete study, the best model is registered too, if that failed before.
    """
    from adarelu_sweep.secrets import concealed, in_one_line
    from adarelu_sweep.tracking.address import require_answer
    from adarelu_sweep.tracking.connecting import connect, given_address

    try:
        address = given_address(ledger.record)
        if address is not None:
            require_answer(address)
        tracker = connect(home, ledger.record, address)
        tracker.log_report(report)
        if state == "complete" and (trouble := tracker.register_best(report)):
            click.echo(f"Warning: {concealed(trouble)}", err=True)
        click.echo(f"It is logged in MLflow: {tracker.address}", err=True)
        if ledger.record.tracking_uri is None:
            click.echo("The server stays up until 'adarelu-sweep server stop'.", err=True)
    except Exception as error:  # of the network, the server, or MLflow's client
        said = in_one_line(error)
        click.echo(f"Warning: the report is not logged in MLflow: {said}", err=True)


def _states(home: "Home") -> "tuple[list[StudyState], list[str]]":
    """Return the states of the studies that can be read, and why the others cannot."""
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.recording.databases import NoStudiesError
    from adarelu_sweep.recording.ledger import Ledger
    from adarelu_sweep.supervising.state import state_of

    states: list[StudyState] = []
    unreadable: list[str] = []
    if home.storage is None and not home.optuna_db.exists():
        return states, unreadable
    try:
        ledger = Ledger.existing(home.database)
    except NoStudiesError:
        return states, unreadable
    for name in ledger.names():
        try:
            states.append(state_of(ledger.open(name), home))
        except UserError as error:
            unreadable.append(str(error))
    return states, unreadable
