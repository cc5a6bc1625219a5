"""The command ``adarelu-sweep``: its verbs, each imported only when it is used."""

import signal
import sys
from importlib import import_module

import click

from adarelu_sweep._version import __version__
from adarelu_sweep.errors import UserError
from adarelu_sweep.outputs import print_leniently
from adarelu_sweep.privacy import keep_to_owner
from adarelu_sweep.processes import search_current_folder_last
from adarelu_sweep.secrets import concealed
from adarelu_sweep.signals import STOP_SIGNALS, StopSignal, exit_code, raise_on_stop_signals

_COMMANDS = {
    "launch": ("sweeps", "Launch a study from its file."),
    "resume": ("sweeps", "Finish what was interrupted."),
    "validate": ("sweeps", "Show the plan of a study file; train nothing."),
    "bench": ("bench", "Measure how fast this machine trains."),
    "status": ("studies", "Show where a study stands."),
    "list": ("studies", "List the studies of a home."),
    "logs": ("running", "Show a study's log, or follow it."),
    "stop": ("running", "Stop a study that runs."),
    "report": ("studies", "Write the report of a study, and print its results."),
    "delete": ("deleting", "Delete a study with all that belongs to it."),
    "ui": ("servers", "Open the home's records in MLflow's UI."),
    "server": ("servers", "Start, stop or look at the home's MLflow server."),
    "home": ("homes", "Move a home's studies to a database server."),
    "data": ("data", "Fetch and list data sets."),
    "doctor": ("doctor", "Look at all that a sweep needs; change nothing."),
}

# A group called without a command: click 8.2 and later raise its help, which is no one-liner.
_HELP: type[click.ClickException] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class LazyGroup(click.Group):
    """Imports a verb's module when the verb is called, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return a verb."""
        if name not in _COMMANDS:
            return None
        module = import_module(f"adarelu_sweep.cli.{_COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="adarelu-sweep")
def cli() -> None:
    """Compare activation functions: sweeps of trainings, recorded in MLflow, resumed at will."""


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    search_current_folder_last()
    print_leniently()
    raise_on_stop_signals()
    keep_to_owner()
    try:
        code = cli.main(prog_name="adarelu-sweep", standalone_mode=False)
    except UserError as error:
        _say(str(error))
        code = 2
    except click.exceptions.Exit as request:
        code = request.exit_code
    except _HELP as request:
        request.show()
        code = request.exit_code
    except click.ClickException as error:
        ctx = error.ctx if isinstance(error, click.UsageError) else None
        _say(error.format_message() + (f" See '{ctx.command_path} --help'." if ctx else ""))
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo("Interrupted.", err=True)
        asked = error if isinstance(error, StopSignal) else error.__cause__  # as click wraps it
        code = exit_code(asked.number if isinstance(asked, StopSignal) else signal.SIGINT)
    except Exception as error:
        said = _database_trouble(error)
        if said is None:
            raise
        _say(said)
        code = 2
    # The exit code is settled: a further signal while Python takes itself down must not change it.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code or 0)


def _database_trouble(error: BaseException) -> str | None:
    """Say what a database server did in the midst of a command, if it is that; else None."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith("psycopg"):
            return f"the database server: {cause}; repeat the command once it can be reached"
        cause = cause.__cause__
    return None


def _say(message: str) -> None:
    """Print an error as one line without passwords, whatever it quotes."""
    click.echo(f"Error: {concealed(' '.join(message.splitlines()))}", err=True)
