"""``doctor``: what a sweep would find on this machine."""

from pathlib import Path

import click
from click.core import ParameterSource

from adarelu_sweep.cli import options


@click.command("doctor")
@options.home_option
@options.storage_option
@options.data_option
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    help="MLflow server to look at.  [default: $MLFLOW_TRACKING_URI, else the home's own]",
)
@options.json_option
@click.pass_context
def doctor_command(
    ctx: click.Context,
    home: Path | None,
    data_dir: str | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Look at all that a sweep needs, and change nothing.

    Versions, devices, the home, its database, the tracking server, storage and data: a line for
    each, with what to do. Exit 1 if something that is asked for cannot be used.
    """
    import json

    from adarelu_sweep.diagnosing.doctor import checks, examine
    from adarelu_sweep.diagnosing.finding import State
    from adarelu_sweep.home import Home
    from adarelu_sweep.tracking.address import refuse_password, take_credentials, with_password

    if ctx.get_parameter_source("tracking_uri") is ParameterSource.COMMANDLINE:
        refuse_password(tracking_uri or "")
    uri = take_credentials(with_password(tracking_uri)) if tracking_uri else None
    here = Home.locate(home)
    findings = []
    for finding in examine(checks(here, here.data_origin(data_dir), uri)):
        findings.append(finding)
        if not as_json:
            click.echo(finding)
    failed = any(finding.state is State.FAILED for finding in findings)
    if as_json:
        told = {"ok": not failed, "findings": [finding.as_dict() for finding in findings]}
        click.echo(json.dumps(told, indent=2))
    ctx.exit(1 if failed else 0)
