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
def fetch_names(names: tuple[str, ...], home: Path | None, data_dir: Path | None) -> None:
    """Download and verify data sets that are not there yet."""
    from adarelu_sweep.datasets.sources import fetch
    from adarelu_sweep.home import Home

    folder = Home.locate(home).data_folder(data_dir)
    for name in names:
        click.echo(f"{name}: {fetch(name, folder).where}")


@data_command.command("list")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@options.home_option
@options.data_option
def list_names(names: tuple[str, ...], home: Path | None, data_dir: Path | None) -> None:
    """Say where data sets are; without names, all that are known."""
    from adarelu_sweep.datasets import sources
    from adarelu_sweep.home import Home

    folder = Home.locate(home).data_folder(data_dir)
    for name in names or sources.names(folder):
        status = sources.check(name, folder)
        click.echo(f"{name}: {status.where}" if status.present else f"{name}: not there")
