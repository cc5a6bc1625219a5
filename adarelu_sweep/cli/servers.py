"""``ui`` and ``server``: the home's own MLflow server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from adarelu_sweep.cli import options

_port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on.  [default: the first free one from 5000]",
)
_host_option = click.option(
    "--host",
    metavar="ADDR",
    help="Address to listen on; beyond this machine with --auth only.  [default: 127.0.0.1]",
)
_auth_option = click.option(
    "--auth/--no-auth",
    default=None,
    help="Have MLflow ask for a user and password. The administrator's are those in "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.  [default: as before; at first, no]",
)
_allow_option = click.option(
    "--allow-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="A further name under which browsers may ask for it; repeatable.",
)


def _listening(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the server listens, and to whom."""
    for option in (_allow_option, _auth_option, _host_option, _port_option, options.home_option):
        command = option(command)
    return command


@click.command("ui")
@_listening
def ui_command(home: Path | None, **listening: Any) -> None:
    """Start the home's MLflow server, or join it, and print its address."""
    click.echo(f"MLflow's UI: {_ensure(home, **listening)}")
    click.echo("It stays up until 'adarelu-sweep server stop'.", err=True)


@click.group("server")
def server_command() -> None:
    """Start, stop or look at the home's MLflow server.

    Sweeps start it by themselves and leave it up. It listens on 127.0.0.1 alone, unless told
    otherwise.
    """


@server_command.command("start")
@_listening
@click.option(
    "--artifacts",
    metavar="PLACE",
    help="Where artifacts are kept from now on: s3://BUCKET/PREFIX, or a folder's whole path.  "
    "[default: as before; at first, HOME/artifacts]",
)
def start(home: Path | None, **listening: Any) -> None:
    """Start the server, or join it, and print its address."""
    click.echo(_ensure(home, **listening))


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
            "asks": server.asks if server else None,
            "pid": server.pid if server else None,
        }
        click.echo(json.dumps(state, indent=2))
    elif server is None:
        click.echo("no server is up")
    else:
        words = "answers" if answers else "does not answer (yet)"
        click.echo(f"{server.url} (process {server.pid}) {words}")


def _ensure(
    home: Path | None,
    port: int | None,
    host: str | None,
    auth: bool | None,
    allowed_hosts: tuple[str, ...],
    artifacts: str | None = None,
) -> str:
    from adarelu_sweep.home import Home
    from adarelu_sweep.tracking.server import ensure_server

    return ensure_server(Home.locate(home), port, host, auth, allowed_hosts, artifacts).url
