"""What a person sees while a study runs: live on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.recording.trials import Counts
from adarelu_sweep.training.history import EpochRecord, History


class Display:
    """Shows what the supervisor reports. This one shows nothing."""

    def __enter__(self) -> "Display":
        """Begin to show."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End, and leave the terminal as it was."""

    def say(self, line: str) -> None:
        """Show one line that stays."""

    def counts(self, counts: Counts) -> None:
        """Show how many trials are in which state."""

    def given(self, slot: Slot, trials: Sequence[str]) -> None:
        """Show that a slot is to train these trials at once."""

    def started(self, slot: Slot, trial: str, epochs_done: int) -> None:
        """Show that a slot trains a trial, from this many epochs on."""

    def epoch(self, slot: Slot, trial: str, record: EpochRecord) -> None:
        """Show an epoch's metrics."""

    def finished(self, slot: Slot, trial: str, history: History) -> None:
        """Show that a trial has its outcome."""

    def idle(self, slot: Slot) -> None:
        """Show that a slot has nothing to do."""

    def lost(self, slot: Slot) -> None:
        """Show a slot no more, which is gone."""


class Pace:
    """How fast the study goes, and when it will be done."""

    def __init__(self, epochs_per_trial: int) -> None:
        self._epochs_per_trial = epochs_per_trial
        self._started = time.monotonic()
        self._epochs = 0

    def epoch_done(self) -> None:
        """Count one epoch trained in this call."""
        self._epochs += 1

    def time_left(self, counts: Counts, epochs_in_progress: int) -> timedelta | None:
        """Return an estimate from this call's pace, None before its first epoch."""
        if not self._epochs:
            return None
        epochs = (counts.waiting + counts.running) * self._epochs_per_trial - epochs_in_progress
        per_epoch = (time.monotonic() - self._started) / self._epochs
        return timedelta(seconds=round(max(0, epochs) * per_epoch))


def metrics_text(record: EpochRecord) -> str:
    """Return an epoch's metrics in one line."""
    metrics = record.metrics
    split = "test" if "test/accuracy" in metrics else "val"
    return (
        f"loss {metrics['train/loss']:.4f}  "
        f"{split} accuracy {metrics[f'{split}/accuracy']:.2f} %  "
        f"{metrics['images_per_second']:.0f} images/s"
    )


class PlainDisplay(Display):
    """One line per event, for logs and pipes."""

    def __init__(
        self, console: Console, epochs_per_trial: int, stamp_format: str = "%H:%M:%S"
    ) -> None:
        self._console = console
        self._epochs = epochs_per_trial
        self._stamp_format = stamp_format
        self._pace = Pace(epochs_per_trial)
        self._counts: Counts | None = None

    def say(self, line: str) -> None:  # noqa: D102
        stamp = time.strftime(self._stamp_format)
        self._console.print(f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True)

    def counts(self, counts: Counts) -> None:  # noqa: D102
        self._counts = counts

    def started(self, slot: Slot, trial: str, epochs_done: int) -> None:  # noqa: D102
        resumed = f", resumed after epoch {epochs_done}" if epochs_done else ""
        self.say(f"slot {slot.index}: {trial} started{resumed}")

    def epoch(self, slot: Slot, trial: str, record: EpochRecord) -> None:  # noqa: D102
        self._pace.epoch_done()
        position = f"epoch {record.epoch}/{self._epochs}"
        self.say(f"slot {slot.index}: {trial} {position}  {metrics_text(record)}")

    def finished(self, slot: Slot, trial: str, history: History) -> None:  # noqa: D102
        progress = ""
        if self._counts:
            left = self._pace.time_left(self._counts, 0)
            done = self._counts.total - self._counts.waiting - self._counts.running
            progress = f"; {done}/{self._counts.total} trials done"
            progress += f", about {left} left" if left else ""
        self.say(f"slot {slot.index}: {trial} {history.outcome}{progress}")


@dataclass
class _Row:
    """What a slot does: the trial that was heard of last is shown."""

    slot: Slot
    shown: str = "starting"
    metrics: str = ""
    epochs: dict[str, int] = field(default_factory=dict)
    """By trial in hand, how many are done."""

    def cells(self, epochs_per_trial: int) -> tuple[str, str, Text, str, str]:
        """Return what stands in its columns."""
        epoch = self.epochs.get(self.shown, 0)
        position = f"epoch {epoch}/{epochs_per_trial}" if epoch else ""
        others = len(self.epochs.keys() - {self.shown})
        trial = f"{self.shown} and {others} more" if others else self.shown
        return f"slot {self.slot.index}", self.slot.name, Text(trial), position, self.metrics


class LiveDisplay(Display):
    """Overall progress with time left, and a row per slot, redrawn in place."""

    def __init__(self, console: Console, slots: Iterable[Slot], epochs_per_trial: int) -> None:
        self._console = console
        self._epochs = epochs_per_trial
        self._pace = Pace(epochs_per_trial)
        self._counts: Counts | None = None
        self._rows = {slot.index: _Row(slot) for slot in slots}
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:  # noqa: D102
        self._console.print(line, markup=False, highlight=False)

    def counts(self, counts: Counts) -> None:  # noqa: D102
        self._counts = counts

    def given(self, slot: Slot, trials: Sequence[str]) -> None:  # noqa: D102
        self._rows[slot.index] = _Row(slot, trials[0], epochs=dict.fromkeys(trials, 0))

    def started(self, slot: Slot, trial: str, epochs_done: int) -> None:  # noqa: D102
        self._show(slot, trial, epochs_done)

    def epoch(self, slot: Slot, trial: str, record: EpochRecord) -> None:  # noqa: D102
        self._pace.epoch_done()
        self._show(slot, trial, record.epoch, metrics_text(record))

    def _show(self, slot: Slot, trial: str, epochs: int, metrics: str = "") -> None:
        row = self._rows[slot.index]
        row.shown, row.metrics = trial, metrics
        row.epochs[trial] = epochs

    def finished(self, slot: Slot, trial: str, history: History) -> None:  # noqa: D102
        self._show(slot, trial, 0)  # counted among the complete ones now
        del self._rows[slot.index].epochs[trial]
        if history.outcome == "diverged":
            self.say(f"{trial} diverged after {len(history.epochs)} epochs: that is its result")

    def idle(self, slot: Slot) -> None:  # noqa: D102
        self._rows[slot.index] = _Row(slot, "idle")

    def lost(self, slot: Slot) -> None:  # noqa: D102
        self._rows.pop(slot.index, None)

    def _render(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2))
        for row in self._rows.values():
            rows.add_row(*row.cells(self._epochs))
        return Group(self._overall(), rows)

    def _overall(self) -> RenderableType:
        counts = self._counts
        if counts is None:
            return Text("starting")
        in_progress = sum(sum(row.epochs.values()) for row in self._rows.values())
        epochs_done = (counts.complete + counts.pruned + counts.failed) * self._epochs + in_progress
        left = self._pace.time_left(counts, in_progress)
        failed = f", {counts.failed} failed" if counts.failed else ""
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(total=counts.total * self._epochs, completed=epochs_done, width=40),
            f"{counts.complete + counts.pruned}/{counts.total} trials{failed}",
            f"about {left} left" if left is not None else "",
        )
        return line


class TwoDisplays(Display):
    """Shows everything in two places."""

    def __init__(self, first: Display, second: Display) -> None:
        self._both = (first, second)

    def __enter__(self) -> "TwoDisplays":
        for display in self._both:
            display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for display in self._both:
            display.__exit__(*error)

    def say(self, line: str) -> None:  # noqa: D102
        for display in self._both:
            display.say(line)

    def counts(self, counts: Counts) -> None:  # noqa: D102
        for display in self._both:
            display.counts(counts)

    def given(self, slot: Slot, trials: Sequence[str]) -> None:  # noqa: D102
        for display in self._both:
            display.given(slot, trials)

    def started(self, slot: Slot, trial: str, epochs_done: int) -> None:  # noqa: D102
        for display in self._both:
            display.started(slot, trial, epochs_done)

    def epoch(self, slot: Slot, trial: str, record: EpochRecord) -> None:  # noqa: D102
        for display in self._both:
            display.epoch(slot, trial, record)

    def finished(self, slot: Slot, trial: str, history: History) -> None:  # noqa: D102
        for display in self._both:
            display.finished(slot, trial, history)

    def idle(self, slot: Slot) -> None:  # noqa: D102
        for display in self._both:
            display.idle(slot)

    def lost(self, slot: Slot) -> None:  # noqa: D102
        for display in self._both:
            display.lost(slot)


def make_display(console: Console, slots: Iterable[Slot], epochs_per_trial: int) -> Display:
    """Return the live display on a terminal, else the plain one."""
    if console.is_terminal:
        return LiveDisplay(console, slots, epochs_per_trial)
    return PlainDisplay(console, epochs_per_trial)


def log_display(log: TextIO, epochs_per_trial: int) -> Display:
    """Return a plain display for a file that days of training go to."""
    console = Console(file=log, force_terminal=False, color_system=None)
    return PlainDisplay(console, epochs_per_trial, "%Y-%m-%d %H:%M:%S")
