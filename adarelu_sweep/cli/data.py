"""``data``: fetching data sets and seeing which are there."""

from pathlib import Path

import click

from adarelu_sweep.cli import options


@click.group("data")
def data_command() -> None:
    """Fetch and list data sets."""


@data_command.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@options.home_option
@options.data_option
def fetch_names(names: tuple[str, ...], home: Path | None, data_dir: str | None) -> None:
    """Download and verify data sets that are not there yet."""
    from adarelu_sweep.datasets.origin import provide
    from adarelu_sweep.home import Home

    origin = Home.locate(home).data_origin(data_dir)
    for name in names:
        click.echo(f"{name}: {provide(name, origin)}")


@data_command.command("list")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@options.home_option
@options.data_option
def list_names(names: tuple[str, ...], home: Path | None, data_dir: str | None) -> None:
    """Say where data sets are; without names, all that are known."""
    from adarelu_sweep.datasets.origin import known, where
    from adarelu_sweep.home import Home

    origin = Home.locate(home).data_origin(data_dir)
    for name in names or known(origin):
        click.echo(f"{name}: {where(name, origin) or 'not there'}")
