"""``home``: what concerns all studies of a home at once."""

from pathlib import Path

import click

from adarelu_sweep.cli import options


@click.group("home")
def home_command() -> None:
    """Move a home's studies to a database server."""


@home_command.command("migrate")
@options.home_option
@click.option(
    "--to",
    "address",
    metavar="URI",
    required=True,
    help="PostgreSQL database, as postgresql+psycopg://USER@HOST/DATABASE; the password in "
    "PGPASSWORD or ~/.pgpass.",
)
def migrate_command(home: Path | None, address: str) -> None:
    """Move the studies of a home from its SQLite file to PostgreSQL, counted and compared.

    MLflow's records stay where they are.
    """
    from adarelu_sweep.home import Home
    from adarelu_sweep.supervising.migrating import migrate

    options.refuse_password("--to", address)
    migrate(Home.locate(home), address, click.echo)
