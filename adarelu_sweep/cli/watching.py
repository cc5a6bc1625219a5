"""What ``status --watch`` does: show a study's state until nobody runs it."""

import json
import time
from collections.abc import Callable, Iterator

import click

from adarelu_sweep.supervising.state import StudyState

_PAUSE = 2.0  # seconds


def watch(look: Callable[[], StudyState], as_json: bool) -> None:
    """Show where a study stands: redrawn on a terminal, elsewhere a line for every change."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if as_json or not console.is_terminal:
        shown = ""
        for state in _states(look):
            line = json.dumps(state.as_dict()) if as_json else str(state)
            if line != shown:
                click.echo(line)
            shown = line
        return
    with Live(console=console, auto_refresh=False) as live:
        for state in _states(look):
            live.update(Text(str(state)), refresh=True)


def _states(look: Callable[[], StudyState]) -> Iterator[StudyState]:
    """Yield the state every two seconds, at last that in which the study is left."""
    while True:
        state = look()
        yield state
        if state.holder is None:
            return
        time.sleep(_PAUSE)
