"""The files that a trial's run holds beside its metrics."""

import csv
import json
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adarelu_sweep.drawing import DRAWING
from adarelu_sweep.tracking.probes import draw_probes, write_probes
from adarelu_sweep.tracking.snapshot import TrialSnapshot
from adarelu_sweep.training.history import CONFUSION_MATRIX, TRACEBACK, History

Split = Literal["val", "test"]

_IN_WORDS: dict[Split, str] = {"val": "validation", "test": "test"}


def write_artifacts(snapshot: TrialSnapshot, folder: Path, figures: bool) -> None:
    """Write the resolved trial, its history, probes and confusion matrix, or traceback.

    With ``figures``, curves, probes and confusion matrix are drawn too, which takes longer than
    all the rest.
    """
    trial = json.dumps(snapshot.settings.model_dump(mode="json"), indent=2)
    (folder / "trial.json").write_text(trial + "\n")
    if snapshot.status == "FAILED" and (snapshot.folder / TRACEBACK).exists():
        (folder / TRACEBACK).write_bytes((snapshot.folder / TRACEBACK).read_bytes())
    history = History.read(snapshot.results)
    if not history.epochs:
        return
    _write_history(history, folder / "history.csv")
    if any(record.probes for record in history.epochs):
        write_probes(history, folder / "probes.csv")
    confusion = snapshot.results / CONFUSION_MATRIX
    if confusion.exists():
        (folder / CONFUSION_MATRIX).write_bytes(confusion.read_bytes())
    if figures:
        with DRAWING:
            _draw(snapshot, history, folder)


def _draw(snapshot: TrialSnapshot, history: History, folder: Path) -> None:
    measured_on = snapshot.settings.measured_on
    title = f"{snapshot.settings.arm}, seed {snapshot.settings.seed}"
    if note := snapshot.settings.data.subset_note():
        title += f"\n{note}"
    _draw_curves(history, measured_on, title, folder / "curves.png")
    if any(record.probes for record in history.epochs):
        draw_probes(history, title, folder / "probes.png")
    confusion = folder / CONFUSION_MATRIX
    if confusion.exists():
        matrix = np.loadtxt(confusion, delimiter=",", dtype=np.int64, ndmin=2)
        _draw_confusion(matrix, measured_on, title, folder / "confusion_matrix.png")


def _write_history(history: History, path: Path) -> None:
    # Some are measured at the last epoch only.
    keys = list(dict.fromkeys(key for record in history.epochs for key in record.metrics))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "timestamp", *keys])
        for record in history.epochs:
            values = [record.metrics.get(key, "") for key in keys]
            writer.writerow([record.epoch, record.timestamp, *values])


def _draw_curves(history: History, measured_on: Split, title: str, path: Path) -> None:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    epochs = [record.epoch for record in history.epochs]
    for axes, quantity, label in zip(
        figure.subplots(1, 2),
        ["loss", "accuracy"],
        ["cross entropy (nats)", "accuracy (%)"],
        strict=True,
    ):
        marker = "." if len(epochs) < 20 else None
        for split, words in (("train", "training"), (measured_on, _IN_WORDS[measured_on])):
            values = [record.metrics[f"{split}/{quantity}"] for record in history.epochs]
            axes.plot(epochs, values, label=words, marker=marker)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=100)


def _draw_confusion(matrix: NDArray[np.int64], measured_on: Split, title: str, path: Path) -> None:
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    label = f"{_IN_WORDS[measured_on]} images"
    figure.colorbar(axes.imshow(matrix, cmap="Blues"), ax=axes, label=label)
    axes.set(xlabel="predicted class", ylabel="class")
    figure.savefig(path, dpi=100)
