"""Options that several verbs share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from adarelu_sweep.errors import UserError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

home_option: Decorator = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that holds all state.  [default: $ADARELU_SWEEP_HOME, else ./adarelu-home]",
)
data_option: Decorator = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    metavar="DIR|URI",
    help="Folder of the data sets, or where they are in a store, as s3://BUCKET/PREFIX.  "
    "[default: $ADARELU_SWEEP_DATA, else HOME/data]",
)


def _use_storage(_ctx: click.Context, _option: click.Parameter, given: str | None) -> None:
    """Put the address where ``Home.locate`` and processes in the background look for it."""
    if given is None:
        return
    from adarelu_sweep.home import STORAGE

    refuse_password("--storage", given)
    os.environ[STORAGE] = given


def refuse_password(option: str, address: str) -> None:
    """Raise UserError for a database's address from the command line that holds a password."""
    from adarelu_sweep.secrets import password_in, without_password

    if password_in(address):
        raise UserError(
            f"{option} holds a password, and all on this machine can read command lines: give "
            f"{without_password(address)}, and the password in PGPASSWORD or ~/.pgpass"
        )


storage_option: Decorator = click.option(
    "--storage",
    metavar="URI",
    expose_value=False,
    callback=_use_storage,
    help="PostgreSQL database that records the studies, as postgresql+psycopg://USER@HOST/DATABASE."
    "  [default: $ADARELU_SWEEP_STORAGE, else the home's, at first its file optuna.db]",
)
set_option: Decorator = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a field of the study file, as in training.optimizer.lr=0.01; repeatable.",
)
gpus_option: Decorator = click.option(
    "--gpus",
    metavar="all|none|0,1",
    help="GPUs to train on.  [default: all that are free; the CPU if there is none]",
)
workers_option: Decorator = click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Number of slots in all.  [default: one per GPU; without GPUs, one per core]",
)
launcher_option: Decorator = click.option(
    "--launcher",
    type=click.Choice(["local", "ray"]),
    help="Where workers run: on this machine, or on a Ray cluster.  [default: local]",
)
ray_address_option: Decorator = click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Head of the Ray cluster.  [default: $RAY_ADDRESS, else the one that runs here, else "
    "this machine by itself]",
)
gpus_per_worker_option: Decorator = click.option(
    "--gpus-per-worker",
    type=float,
    metavar="SHARE",
    help="How much of a GPU of the cluster a worker gets, as in 0.5.  [default: 1]",
)
pack_option: Decorator = click.option(
    "--pack",
    metavar="auto|N",
    help="Trials of an arm that a worker trains at once.  [default: auto, what was "
    "measured to be best; 1 on the CPU]",
)
detach_option: Decorator = click.option(
    "--detach", is_flag=True, help="Return once it runs; it goes on in the background."
)
reporting_option: Decorator = click.option("--report-to", type=int, hidden=True)
"""Of a process in the background: the pipe down which it says that its study runs."""
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def study_file_argument() -> Decorator:
    """Return the argument for a study file; whether it is one, its reading says."""
    return click.argument("study_file", metavar="STUDY.toml", type=click.Path(path_type=Path))
