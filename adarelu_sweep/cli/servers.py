"""``ui`` and ``server``: the home's own MLflow server."""

from pathlib import Path

import click

from adarelu_sweep.cli import options

_port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on.  [default: the first free one from 5000]",
)


@click.command("ui")
@options.home_option
@_port_option
def ui_command(home: Path | None, port: int | None) -> None:
    """Start the home's MLflow server, or join it, and print its address."""
    click.echo(f"MLflow's UI: {_ensure(home, port)}")
    click.echo("It stays up until 'adarelu-sweep server stop'.", err=True)


@click.group("server")
def server_command() -> None:
    """Start, stop or look at the home's MLflow server.

    Sweeps start it by themselves and leave it up. It listens on 127.0.0.1 alone.
    """


@server_command.command("start")
@options.home_option
@_port_option
def start(home: Path | None, port: int | None) -> None:
    """Start the server, or join it, and print its address."""
    click.echo(_ensure(home, port))


@server_command.command("stop")
@options.home_option
def stop(home: Path | None) -> None:
    """Stop the server. A sweep that still has something to deliver starts it again."""
    from adarelu_sweep.home import Home
    from adarelu_sweep.tracking.server import stop_server

    server = stop_server(Home.locate(home))
    click.echo(f"stopped {server.url}" if server else "no server is up")


@server_command.command("status")
@options.home_option
@options.json_option
def status(home: Path | None, as_json: bool) -> None:
    """Say whether the server is up, and where."""
    import json

    from adarelu_sweep.home import Home
    from adarelu_sweep.tracking.server import find_server

    server = find_server(Home.locate(home))
    answers = server is not None and server.answers()
    if as_json:
        state = {
            "up": server is not None,
            "answers": answers,
            "url": server.url if server else None,
            "pid": server.pid if server else None,
        }
        click.echo(json.dumps(state, indent=2))
    elif server is None:
        click.echo("no server is up")
    else:
        words = "answers" if answers else "does not answer (yet)"
        click.echo(f"{server.url} (process {server.pid}) {words}")


def _ensure(home: Path | None, port: int | None) -> str:
    from adarelu_sweep.home import Home
    from adarelu_sweep.tracking.server import ensure_server

    return ensure_server(Home.locate(home), port).url
