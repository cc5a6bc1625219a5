"""``logs`` and ``stop``: dealing with a study that runs."""

from pathlib import Path

import click

from adarelu_sweep.cli import options

_FOLLOWED = 20  # lines to begin with


@click.command("logs")
@click.argument("name")
@options.home_option
@options.storage_option
@click.option("-f", "--follow", is_flag=True, help="Go on as long as the study runs.")
@click.option(
    "--worker",
    type=click.IntRange(min=0),
    metavar="N",
    help="Show what the workers of slot N print.  [default: what the supervisor shows]",
)
@click.option(
    "--lines",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Show the last N lines.  [default: all; {_FOLLOWED} with --follow]",
)
def logs_command(
    name: str, home: Path | None, follow: bool, worker: int | None, lines: int | None
) -> None:
    """Show the log of the study NAME."""
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.following import find_log, read_log
    from adarelu_sweep.recording.lease import Lease
    from adarelu_sweep.recording.ledger import Ledger

    here = Home.locate(home)
    Ledger.existing(here.database).open(name)
    path = find_log(here, name, worker)
    lease = Lease(here.study_folder(name), name)
    goes_on = (lambda: lease.holder() is not None) if follow else None
    for piece in read_log(path, _FOLLOWED if follow and lines is None else lines, goes_on):
        click.echo(piece, nl=False)


@click.command("stop")
@click.argument("name")
@options.home_option
@options.storage_option
@click.option("--now", is_flag=True, help="Do not let it finish the steps in hand.")
def stop_command(name: str, home: Path | None, now: bool) -> None:
    """Stop the study NAME as Ctrl-C does; 'adarelu-sweep resume' goes on from there."""
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.stopping import stop
    from adarelu_sweep.recording.lease import Lease
    from adarelu_sweep.recording.ledger import Ledger
    from adarelu_sweep.supervising.state import state_of

    here = Home.locate(home)
    ledger = Ledger.existing(here.database).open(name)
    lease = Lease(here.study_folder(name), name)
    if not stop(lease, name, now, lambda line: click.echo(line, err=True)):
        if elsewhere := ledger.owner():
            process, host, _since = elsewhere
            raise UserError(f"{name} is being run by process {process} on {host}: stop it there")
        click.echo(f"{name} is not being run", err=True)
    click.echo(state_of(ledger, here))
