"""``delete``: a study with all that belongs to it."""

import sys
from pathlib import Path

import click

from adarelu_sweep.cli import options


@click.command("delete")
@click.argument("name")
@options.home_option
@options.storage_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-runs", is_flag=True, help="Leave what MLflow holds of it alone.")
@click.option(
    "--keep-checkpoints",
    is_flag=True,
    help="Leave what lies in its own place (execution.checkpoints) alone, which may be gone.",
)
@click.pass_context
def delete_command(
    ctx: click.Context,
    name: str,
    home: Path | None,
    yes: bool,
    keep_runs: bool,
    keep_checkpoints: bool,
) -> None:
    """Delete the study NAME: trials, checkpoints, logs, report, and its runs in MLflow."""
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.home import Home
    from adarelu_sweep.operating.deleting import Deletion

    deletion = Deletion(name, Home.locate(home), keep_runs, keep_checkpoints)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{deletion}: nobody is there to ask; give --yes to delete it")
        if not click.confirm(f"Delete {deletion}?", err=True):
            click.echo("Nothing is deleted.", err=True)
            ctx.exit(1)
    shown = str(deletion)
    if note := deletion.carry_out():
        click.echo(note, err=True)
    click.echo(f"deleted {shown}")
