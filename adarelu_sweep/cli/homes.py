"""``home``: what concerns all studies of a home at once."""

from pathlib import Path

import click

from adarelu_sweep.cli import options


@click.group("home")
def home_command() -> None:
    """Move what a home has recorded to a database server."""


@home_command.command("migrate")
@options.home_option
@click.option(
    "--to",
    "studies",
    metavar="URI",
    help="PostgreSQL database for the studies, as postgresql+psycopg://USER@HOST/DATABASE; the "
    "password in PGPASSWORD or ~/.pgpass.",
)
@click.option(
    "--tracking-to",
    "tracking",
    metavar="URI",
    help="Another one, for the records of the home's MLflow server.",
)
def migrate_command(home: Path | None, studies: str | None, tracking: str | None) -> None:
    """Move what a home has in SQLite files to PostgreSQL, counted and compared.

    That is its studies, the records of its MLflow server, or both. Artifacts and checkpoints stay
    where they are. What was cut off is repeated.
    """
    from adarelu_sweep.errors import UserError
    from adarelu_sweep.home import Home
    from adarelu_sweep.migrating.studies import migrate_studies

    if studies == tracking:
        raise UserError(
            "give --to for the studies, --tracking-to for MLflow's records, or both, each with a "
            "database of its own"
        )
    for option, address in (("--to", studies), ("--tracking-to", tracking)):
        options.refuse_password(option, address or "")
    here = Home.locate(home)
    if studies:
        migrate_studies(here, studies, click.echo)
    if tracking:
        from adarelu_sweep.tracking.client import prepare_client

        prepare_client()  # before MLflow is imported
        from adarelu_sweep.migrating.records import migrate_records

        migrate_records(here, tracking, click.echo)
