"""What ``--detach`` does: the same command again, in the background."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TextIO

import click

Given = str | int | float | Path | bool | tuple[str, ...] | None


def run_in_background(
    ctx: click.Context,
    name: str,
    arguments: Iterable[str | Path],
    options: dict[str, Given],
    tracking_uri: str | None = None,
) -> None:
    """Start the command of this context anew, wait until its study runs, and say what to do then.

    Args:
        ctx: Whose command is started; it ends with that one's exit code where nothing runs.
        name: The study's name.
        arguments: The command's arguments.
        options: Its options by their names; those that are None or False are left out.
        tracking_uri: Handed over by the environment, with the password that this one has for it.
    """
    from adarelu_sweep.operating.detaching import start_detached
    from adarelu_sweep.tracking.address import with_password

    line = [*written(options), "--", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    if tracking_uri:
        environment["MLFLOW_TRACKING_URI"] = with_password(tracking_uri)
    pid, code = start_detached(str(ctx.info_name), "--report-to", line, environment)
    if code is not None:
        ctx.exit(code if code >= 0 else 128 - code)
    click.echo(
        f"{name} runs in the background, process {pid}\n"
        f"follow it with: adarelu-sweep logs {name} -f\n"
        f"stop it with:   adarelu-sweep stop {name}"
    )


def leave(report_to: int | None) -> Callable[[TextIO], None] | None:
    """Return what leaves the terminal, in a process that was started in the background."""
    if report_to is None:
        return None
    from adarelu_sweep.operating.detaching import leave_terminal

    return partial(leave_terminal, report_to)


def written(options: dict[str, Given]) -> Iterable[str]:
    """Write options as the command line takes them."""
    for option, given in options.items():
        if given is True:
            yield option
        elif given is not None and given is not False:  # 0 is given, and to be refused
            several = given if isinstance(given, tuple) else (given,)
            yield from (f"{option}={value}" for value in several)
