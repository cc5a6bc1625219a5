"""The report: of a real small study by the command, and of results made by hand."""

import base64
import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.trials import TrialResult
from adarelu_sweep.reporting import render
from adarelu_sweep.reporting.behaviour_tables import batch_size_table, branch_table, dead_unit_table
from adarelu_sweep.reporting.collecting import choose_baseline, collect
from adarelu_sweep.reporting.comparison_tables import (
    accuracy_table,
    comparison_table,
    convergence_tables,
)
from adarelu_sweep.reporting.context_tables import protocol_table, published_table
from adarelu_sweep.reporting.convergence import least_learned
from adarelu_sweep.reporting.curves import deviation_curve, mean_curve
from adarelu_sweep.reporting.document import as_json
from adarelu_sweep.reporting.evidence import weigh
from adarelu_sweep.reporting.formats import as_csv, as_markdown, as_summary, as_table
from adarelu_sweep.reporting.illustrations import illustrations
from adarelu_sweep.reporting.page import as_html
from adarelu_sweep.reporting.palette import Palette
from adarelu_sweep.reporting.report import write_report
from adarelu_sweep.reporting.results import (
    Arm,
    ArmSearch,
    Evaluated,
    Results,
    SearchTrial,
    SeedResult,
)
from adarelu_sweep.reporting.sections import sections
from adarelu_sweep.reporting.sentences import findings, state_words
from adarelu_sweep.reporting.study_report import study_report
from adarelu_sweep.reporting.table import Column, Table, fixed, probability
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.published import protocol_differences, standard_accuracy
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.training.history import CHECKPOINT, History
from tests.reports import LAYERS, make_results, make_study
from tests.sweeps import STUDY, Command

FILES = {"report.html", "report.md", "report.json", "report.csv", "tables", "figures"}
STUDIES = Path(__file__).parents[1] / "studies"
SLOT = Slot(0, threads=1)
FORMATS = [as_table, as_markdown, as_summary, as_csv, as_json, lambda r: as_html(r, [])]


# A real study


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home in which the study ``small`` has been trained, three seeds of it."""
    folder = tmp_path_factory.mktemp("report")
    command = Command(folder / "home", OMP_NUM_THREADS="1")
    (folder / "small.toml").write_text(STUDY)
    command.succeed("launch", folder / "small.toml", "--set", "matrix.seeds=3")
    yield command
    command.close()


@pytest.fixture(scope="module")
def written(command: Command) -> Path:
    """The folder of its report, figures and all."""
    done = command.run("report", "small")
    assert done.returncode == 0, done.stderr
    folder = command.home / "reports" / "small"
    assert done.stderr.splitlines()[0] == f"The whole report: {folder / 'report.html'}"
    assert "Test accuracy against relu" in done.stdout
    return folder


@pytest.fixture
def copy(command: Command, tmp_path: Path) -> Command:
    """A home of its own with the same study, to do harm to."""
    shutil.copytree(command.home, tmp_path / "home", ignore=shutil.ignore_patterns("mlflow*"))
    return Command(tmp_path / "home")


def test_the_report_is_whole(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == FILES
    tables = {path.name for path in (written / "tables").iterdir()}
    for key in ("accuracy", "comparisons", "convergence-epochs", "convergence-spread"):
        assert {f"{key}.md", f"{key}.tex", f"{key}.csv"} <= tables
    figures = {path.stem: path for path in (written / "figures").glob("*.png")}
    assert {"shapes", "differences", "spread", "curves-digits-vgg16_bn-width=0.0625"} <= set(
        figures
    )
    for png in figures.values():
        assert png.read_bytes().startswith(b"\x89PNG")
        assert png.with_suffix(".svg").read_text().startswith("<?xml")
    linked = re.findall(r"!\[.*?\]\((.*?)\)", (written / "report.md").read_text())
    assert sorted(linked) == sorted(f"figures/{png.name}" for png in figures.values())


def test_the_page_needs_nothing_else(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    figures = len(list((written / "figures").glob("*.svg")))
    assert len(page.images) == figures
    for image in page.images:
        assert image.startswith("data:image/svg+xml;base64,")
        svg = base64.b64decode(image.split(",")[1]).decode()
        assert set(re.findall(r'href="(.)', svg)) <= {"#", "d"}  # of itself, or data:
        assert "<script" not in svg
        assert "@import" not in svg
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= page.ids
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in page.text
    assert "In plain words" in page.text


def test_the_numbers_agree_in_every_format(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    for path in sorted((written / "tables").glob("*.csv")):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        assert len(rows) > 1, path
        assert markdown_rows(path.with_suffix(".md").read_text()) == rows
        assert latex_rows(path.with_suffix(".tex").read_text()) == rows
        assert page.tables[f"table-{path.stem}"] == rows
    document = json.loads((written / "report.json").read_text())
    (head, *rows) = csv.reader(io.StringIO((written / "report.csv").read_text()))
    trials = [(arm, trial) for arm in document["arms"] for trial in arm["trials"]]
    assert len(rows) == len(trials) == 6
    for row, (arm, trial) in zip(rows, trials, strict=True):
        cells_ = dict(zip(head, row, strict=True))
        assert cells_["activation"] == arm["activation"]
        assert int(cells_["seed"]) == trial["seed"]
        assert float(cells_["test_accuracy"]) == trial["test_accuracy"]
        assert float(cells_["test_loss"]) == trial["test_loss"]
        assert trial["curves"]["test/accuracy"][-1] == trial["test_accuracy"]
    accuracy = list(csv.reader(io.StringIO((written / "tables" / "accuracy.csv").read_text())))
    assert [row[4] for row in accuracy[1:]] == [f"{arm['mean']:.2f}" for arm in document["arms"]]


@pytest.mark.long
def test_what_is_printed_is_what_is_asked_for(
    command: Command, written: Path, tmp_path: Path
) -> None:
    for style, ending in [("json", "json"), ("csv", "csv")]:
        arguments = ("--format", style, "--no-figures", "--output", tmp_path / style)
        printed = command.succeed("report", "small", *arguments)
        assert printed == (written / f"report.{ending}").read_text()
        assert not (tmp_path / style / "figures").exists()


@pytest.mark.long
def test_another_baseline_and_threshold(command: Command, tmp_path: Path) -> None:
    arguments = ("--format", "json", "--no-figures", "--output", tmp_path / "out")
    usual = command.json("report", "small", *arguments)
    other = command.json(
        "report", "small", *arguments, "--baseline", "adarelu", "--threshold", "12.5"
    )
    relu, adarelu = usual["arms"]
    swapped = other["arms"][0]["comparison"]
    assert relu["comparison"] is None
    assert other["arms"][1]["comparison"] is None
    assert swapped["mean"] == pytest.approx(-adarelu["comparison"]["mean"])
    assert swapped["p_value"] == adarelu["comparison"]["p_value"]
    assert other["arms"][0]["convergence"]["threshold"] == 12.5
    note = (tmp_path / "out" / "tables" / "convergence-epochs.md").read_text()
    assert "12.50 %, as given" in note
    learned = relu["mean"] >= least_learned(10)  # which so short a training may miss
    threshold = usual["arms"][0]["convergence"]["threshold"]
    assert threshold == (pytest.approx(0.95 * relu["mean"]) if learned else None)


@pytest.mark.long
def test_a_report_is_logged_on_the_run_of_the_study(command: Command, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "out", "--no-figures", "--baseline", "adarelu")
    assert "logged in MLflow" not in command.run("report", "small", *output, "--no-log").stderr
    done = command.run("report", "small", *output)
    url = command.succeed("server", "start").strip()
    assert f"It is logged in MLflow: {url}/#/experiments/" in done.stderr
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`adarelu_sweep.kind` = 'study'")
    assert run.info.status == "FINISHED"
    assert "Test accuracy against adarelu" in run.data.tags["mlflow.note.content"]
    logged = client.download_artifacts(run.info.run_id, "report/report.md", str(tmp_path))
    assert Path(logged).read_text() == (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--baseline", "adarelo"], "did you mean 'adarelu'?"),
        (["--threshold", "101"], "--threshold"),
        (["--output", "OTHER"], "holds something that is not an earlier report"),
        (["--output", "OTHER/thesis.txt"], "--output"),
        (["--output", "OTHER/thesis.txt/deeper"], "give another --output"),
        (["--output", "/"], "a report needs a folder of its own; give another --output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    command: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = [argument.replace("OTHER", str(tmp_path)) for argument in arguments]
    done = command.run("report", "small", "--no-figures", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.long
def test_a_study_that_still_runs_says_so(copy: Command) -> None:
    with Lease(Home(copy.home).study_folder("small"), "small"):
        printed = copy.succeed("report", "small", "--no-figures")
        assert "still running: 6 of 6 trials have a result" in printed
        (here, results) = (Home(copy.home), collected(copy))
        assert results.state == "running"
        ledger = Ledger.existing(here.optuna_db)
        assert collect(ledger.open("small"), here, state="interrupted").state == "interrupted"
        ledger.close()
    assert "still running" not in copy.succeed("report", "small", "--no-figures")


def test_a_checkpoint_that_is_gone_or_damaged(copy: Command) -> None:
    before = collected(copy)
    trials = [trial for arm in before.arms for trial in arm.trials]
    (trials[0].folder / CHECKPOINT).unlink()
    (trials[1].folder / CHECKPOINT).write_bytes(b"not a checkpoint")
    (trials[2].folder / CHECKPOINT).write_bytes((trials[3].folder / CHECKPOINT).read_bytes()[:999])
    after = collected(copy)
    assert after.without_history == 3
    assert [arm.accuracies() for arm in after.arms] == [arm.accuracies() for arm in before.arms]
    assert after.arms[0].curves("test/accuracy") == {}
    assert len(after.arms[1].curves("test/accuracy")) == 3
    printed = copy.succeed("report", "small", "--no-figures")
    assert "The course of 3 finished trials is not known" in printed


def test_a_report_in_haste_has_the_same_accuracies(command: Command, tmp_path: Path) -> None:
    home = Home(command.home)
    ledger = Ledger.existing(home.optuna_db)
    hasty = collect(ledger.open("small"), home, in_haste=True)
    ledger.close()
    whole = collected(command)
    assert [arm.accuracies() for arm in hasty.arms] == [arm.accuracies() for arm in whole.arms]
    assert hasty.without_history == 6
    assert any("in haste" in words for words in state_words(hasty))
    write_report(hasty, tmp_path / "out", figures=False)
    tables = {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert tables == {"accuracy", "comparisons"}


@pytest.mark.long
def test_an_earlier_report_is_replaced(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()  # an empty folder is nobody's
    command.succeed("report", "small", "--no-figures", "--output", folder)
    (folder / "tables" / "stale.csv").write_text("old")
    command.succeed("report", "small", "--no-figures", "--output", folder)
    assert not (folder / "tables" / "stale.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (folder / "mine.txt").write_text("notes")
    assert command.run("report", "small", "--output", folder).returncode == 2
    assert (folder / "mine.txt").read_text() == "notes"


def collected(command: Command) -> Results:
    home = Home(command.home)
    ledger = Ledger.existing(home.optuna_db)
    try:
        return collect(ledger.open("small"), home)
    finally:
        ledger.close()


# A search whose best settings are not those of the study file


TUNED = """
name = "tuned"
[matrix]
dataset = "digits"
network = [{ name = "vgg16_bn", width = 0.0625 }, { name = "resnet18", width = 0.0625 }]
activation = ["relu", "leaky_relu", "adarelu"]
[training]
epochs = 2
[search]
trials = 2
validation_fraction = 0.25
confirm_seeds = 2
sampler = "random"
[search.space]
"training.batch_size" = { choices = [16, 64] }
"optimizer.weight_decay" = { low = 1e-4, high = 1e-2 }
"network.width" = { choices = [0.125, 0.25] }
"activation.negative_slope" = { low = 0.2, high = 0.9 }
"activation.eval_mode" = { choices = ["running"] }
"""


@pytest.fixture
def tuned(tmp_path: Path) -> Iterator[tuple[StudyLedger, Home, list[Job]]]:
    """A study whose search has ended, with its jobs; the trainings are made up."""
    (tmp_path / "tuned.toml").write_text(TUNED)
    home = Home(tmp_path / "home")
    home.create()
    study = read_study(tmp_path / "tuned.toml")
    record = StudyRecord(uid="u", study=study, source="", created="", version="")
    ledger = Ledger(home.optuna_db)
    agenda, jobs = Agenda(ledger.create(record), home), []
    while (job := agenda.take(SLOT)) is not None:
        later_is_better = job.cell.settings.network.name == "resnet18"
        accuracy = 50.0 + (len(jobs) if later_is_better else -len(jobs))
        job.trial = job.book.complete(job.trial, TrialResult(accuracy, 1.0, 2, False))
        jobs.append(job)
    yield ledger.open("tuned"), home, jobs
    ledger.close()


def slope_of(arm: Arm) -> float:
    return float(arm.settings.activation.arguments["negative_slope"])


def test_what_was_tuned_is_what_is_reported(tuned: Any, tmp_path: Path) -> None:
    ledger, home, jobs = tuned
    results = collect(ledger, home)
    confirmed = [job.cell.settings for job in jobs if job.search is None]
    assert [arm.n for arm in results.arms] == [2] * 6
    assert results.activations == ["relu", "leaky_relu", "adarelu"]
    for arm in results.arms:
        trained = [s for s in confirmed if s.arm == f"digits/{arm.network}/{arm.activation}"]
        assert len(trained) == 2
        assert arm.settings in trained
        assert arm.settings.training.batch_size in {16, 64}
        assert arm.settings.network.label != arm.network
    slopes = [
        f"leaky_relu tuned to negative_slope {slope_of(arm):.4g} in digits, {arm.network}"
        for arm in results.arms
        if arm.activation == "leaky_relu"
    ]
    assert len(set(slopes)) == 2
    (section,) = [s for s in sections(weigh(results)) if s.key == "activations"]
    assert section.text == [
        f"Compared: relu; {'; '.join(slopes)}; adarelu tuned to eval_mode running. "
        "The baseline is relu."
    ]
    for arm, entry in zip(results.arms, json.loads(as_json(results))["arms"], strict=True):
        assert entry["activation"] == arm.activation
        assert entry["network"] == arm.network
        tuned_to = entry["settings"]["training"]["optimizer"]["arguments"]["weight_decay"]
        assert tuned_to == arm.settings.training.optimizer.arguments["weight_decay"] > 0
        aspects = {difference["aspect"] for difference in entry["protocol_differences"]}
        assert {"batch size", "weight decay"} <= aspects


def test_shapes_are_drawn_as_tuned(tuned: Any) -> None:
    from adarelu_sweep.reporting.layer_figures import draw_shapes

    results = collect(*tuned[:2])
    figure = draw_shapes(results.variants, Palette(results.activations))
    plain, twofold = figure.axes
    assert twofold.get_title() == "adarelu tuned to eval_mode running"
    leaky = [line for line in plain.lines if str(line.get_label()).startswith("leaky_relu tuned")]
    arms = [arm for arm in results.arms if arm.activation == "leaky_relu"]
    for line, arm in zip(leaky, arms, strict=True):
        x, slope = np.asarray(line.get_xdata()), slope_of(arm)
        np.testing.assert_allclose(line.get_ydata(), np.where(x < 0, slope * x, x), rtol=1e-6)
    assert len({line.get_linestyle() for line in leaky}) == 2


class Page(HTMLParser):
    """What a page loads, links to, and shows in its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = re.sub(r'src="data:[^"]*"', "", text)
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.tables: dict[str, list[list[str]]] = {}
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.images += [given["src"]] if "src" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "table":
            self.tables[given["id"]] = []
        if tag == "tr":
            list(self.tables.values())[-1].append([])
        if tag in {"td", "th"}:
            list(self.tables.values())[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._cell:
            list(self.tables.values())[-1][-1][-1] += data


def markdown_rows(text: str) -> list[list[str]]:
    rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [rows[0], *rows[2:]]


def latex_rows(text: str) -> list[list[str]]:
    rows = [line.strip() for line in text.splitlines() if line.endswith("\\\\")]
    return [[unescaped(cell) for cell in row.removesuffix("\\\\").split(" & ")] for row in rows]


def unescaped(cell: str) -> str:
    for written_, character in [
        ("\\textless{}", "<"),
        ("\\textgreater{}", ">"),
        ("\\textbar{}", "|"),
        ("$-$", "-"),
    ]:
        cell = cell.replace(written_, character)
    return re.sub(r"\\([&%$#_{}])", r"\1", cell).strip()


# Results made by hand


def without(results: Results, keep: Any) -> Results:
    """Return results with only the trials for which ``keep(arm, trial)`` holds."""
    arms = [replace(a, trials=[t for t in a.trials if keep(a, t)]) for a in results.arms]
    return replace(results, arms=arms)


CASES = {
    "whole": lambda: make_results(),
    "one seed": lambda: make_results(make_study(seeds=1)),
    "two seeds": lambda: make_results(make_study(seeds=2)),
    "nothing finished": lambda: without(make_results(state="running"), lambda a, t: False),
    "one activation": lambda: make_results(make_study(activation="gelu", seeds=3), baseline="gelu"),
    "no baseline yet": lambda: without(
        make_results(state="interrupted"), lambda a, t: a.activation != "relu"
    ),
    "incomplete": lambda: without(
        make_results(state="interrupted"), lambda a, t: t.seed < 3 or a.activation == "relu"
    ),
    "diverged": lambda: make_results(diverged={("adarelu", 0), ("adarelu", 5)}),
    "all diverged": lambda: make_results(
        make_study(seeds=3), diverged={(a, s) for a in ("relu", "adarelu") for s in range(3)}
    ),
    "equal": lambda: make_results(make_study(activation=["relu", "gelu"], seeds=3)),
    "two networks": lambda: make_results(make_study(network=["vgg16", "resnet18"], seeds=3)),
    "no histories": lambda: make_results(make_study(seeds=3)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Results:
    results: Results = CASES[request.param]()
    if request.param == "no histories":
        arms = [
            replace(a, trials=[replace(t, history=History()) for t in a.trials])
            for a in results.arms
        ]
        return replace(results, arms=arms)
    return results


@pytest.mark.filterwarnings(
    "error",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # of what other tests left
)
def test_every_case_in_every_format(case: Results, tmp_path: Path) -> None:
    for format_ in FORMATS:
        text = format_(case)
        assert text.strip()
        assert not re.search(r"\b(nan|NaN|None|inf|Infinity)\b", text), text
    write_report(case, tmp_path / "out", figures=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"figures"}
    for path in (tmp_path / "out" / "tables").glob("*.tex"):
        assert_balanced(path.read_text())
    said = dict(findings(weigh(case)))
    assert all(said.values())


@pytest.mark.long
@pytest.mark.parametrize("name", ["whole", "one seed", "all diverged", "nothing finished"])
@pytest.mark.filterwarnings(
    "error",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # of what other tests left
)
def test_figures_of_edge_cases(name: str, tmp_path: Path) -> None:
    write_report(CASES[name](), tmp_path / "out")
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"shapes.png", "shapes.svg"} <= figures
    assert ("differences.png" in figures) == (name != "nothing finished")
    assert ("branches-digits-vgg16_bn-adarelu.svg" in figures) == (name != "nothing finished")


def test_what_cannot_be_said_is_not_said() -> None:
    (_, lines), *_ = findings(weigh(make_results(make_study(seeds=3))))
    for line in lines:
        assert "no difference shown" in line
        assert "no difference, however large, could have been shown" in line
        assert "7 or more are needed, after Holm's correction for 2 comparisons" in line
    (_, lines), *_ = findings(weigh(CASES["nothing finished"]()))
    assert lines == [
        "leaky_relu against relu: no seed has a result of both yet.",
        "adarelu against relu: no seed has a result of both yet.",
    ]
    ((_, lines),) = findings(weigh(CASES["one activation"]()))
    assert "no other activation" in lines[0]


def test_a_study_that_is_over_has_nothing_to_come() -> None:
    over = replace(CASES["no baseline yet"](), state="failed")
    text = as_markdown(over)
    assert not re.search(r"\byet\b", text)
    assert "adarelu against relu: no seed has a result of both." in text
    assert re.search(r"\byet\b", as_markdown(CASES["no baseline yet"]()))


@pytest.mark.parametrize(
    ("states", "state", "said"),
    [
        (["complete", "pruned"], "complete", None),
        (["complete"], "running", "adarelu: 1 of 2 trials of its search finished so far."),
        (
            ["complete", "failed", "failed"],
            "failed",
            "adarelu: 1 of 2 trials of its search finished, and it was given up after 2 failed "
            "ones, so it was tuned less than was planned.",
        ),
        (
            ["failed", "failed"],
            "failed",
            "adarelu: 0 of 2 trials of its search finished, and it was given up after 2 failed "
            "ones; none was trained to its end, so it has no result.",
        ),
        (
            ["pruned", "pruned"],
            "complete",
            "adarelu: 2 of 2 trials of its search finished; none was trained to its end, so it "
            "has no result.",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_unequal_tuning_is_said(states: list[str], state: Any, said: str | None) -> None:
    trials = [SearchTrial(i, {}, 50.0, state, 1) for i, state in enumerate(states)]
    best = next((trial for trial in trials if trial.state == "complete"), None)
    search = ArmSearch("digits", "vgg16_bn", "adarelu", 2, trials, best)
    elsewhere = ArmSearch("digits", "resnet18", "adarelu", 2, [])
    results = make_results(make_study(seeds=1), searches=[search, elsewhere], state=state)
    ((_, lines),) = findings(weigh(results))
    assert [line for line in lines if "of its search" in line] == ([said] if said else [])


def test_a_difference_that_is_shown_names_its_evidence() -> None:
    results = shifted({"leaky_relu": 0.0, "adarelu": -3.0})
    ((_, lines),) = findings(weigh(results))
    adarelu = next(line for line in lines if line.startswith("adarelu"))
    assert re.fullmatch(
        r"adarelu is 3\.\d\d points below relu "
        r"\(95 % interval -3\.\d\d to -2\.\d\d, 8 seeds, Holm p 0\.016\)\.",
        adarelu,
    ), adarelu
    leaky = next(line for line in lines if line.startswith("leaky_relu"))
    assert "no difference shown" in leaky
    assert re.search(r"only differences of \d\.\d\d points or more would probably", leaky)


def test_wins_and_losses_are_told_apart() -> None:
    results = shifted({"leaky_relu": 2.0, "adarelu": -2.0})
    rows = comparison_table(weigh(results)).rows
    assert [row[8] for row in rows] == ["8/0/0", "0/0/8"]
    assert [row[4][0] for row in rows] == ["+", "-"]


def shifted(shifts: dict[str, float]) -> Results:
    """Results whose accuracies are relu's, a small alternating noise, and a shift."""
    results = make_results()
    relu = results.arms[0].accuracies()
    arms = []
    for arm in results.arms:
        trials = []
        for trial in arm.trials:
            noise = (
                0.0 if arm.activation == "relu" else (-1) ** trial.seed * (0.1 + 0.02 * trial.seed)
            )
            accuracy = relu[trial.seed] + shifts.get(arm.activation, 0.0) + noise
            trials.append(replace(trial, result=replace(trial.result, accuracy=accuracy)))
        arms.append(replace(arm, trials=trials))
    return replace(results, arms=arms)


def test_diverged_trials_count_and_are_counted() -> None:
    results = CASES["diverged"]()
    adarelu = results.arms[2]
    row = accuracy_table(weigh(results)).rows[2]
    assert row[3] == "8"
    assert row[-1] == "2"
    assert row[4] == f"{fmean(adarelu.accuracies().values()):.2f}"
    ((_, lines),) = findings(weigh(results))
    assert lines[-1].startswith("adarelu: 2 of 8 trials diverged, and count")
    document = json.loads(as_json(results))
    assert document["arms"][2]["trials"][0]["test_loss"] is None
    assert document["arms"][2]["trials"][0]["curves"]["test/loss"][-1] is None
    converged = weigh(results).blocks[0].arms[2].epochs_to_threshold.values
    assert converged[0] == results.study.training.epochs + 1


def test_a_diverged_trial_does_not_cut_the_others_short() -> None:
    results = CASES["diverged"]()
    relu, _, adarelu = results.arms
    ends = {t.seed: t.curve("test/accuracy") for t in adarelu.trials}
    carried = np.array([[*c, *[c[-1]] * (12 - len(c))] for c in ends.values() if c])
    assert sorted(len(curve) for curve in ends.values() if curve) == [4, 4, *[12] * 6]
    (block,) = weigh(results).blocks
    measured = block.arms[2]
    np.testing.assert_allclose(measured.spread, carried.std(0, ddof=1))
    base = np.array(list(relu.curves("test/accuracy").values()))
    assert measured.spread_ratio is not None
    ratio = carried.std(0, ddof=1).mean() / base.std(0, ddof=1).mean()
    assert measured.spread_ratio.ratio == pytest.approx(ratio)
    np.testing.assert_allclose(mean_curve(adarelu.averaged("test/accuracy")), carried.mean(0))

    losses = adarelu.averaged("train/loss")
    assert sorted(map(len, losses.values())) == [3, 3, *[12] * 6]  # the fourth is not finite
    whole = np.array([curve for curve in losses.values() if len(curve) == 12])
    np.testing.assert_allclose(mean_curve(losses)[3:], whole.mean(0)[3:])
    np.testing.assert_allclose(deviation_curve(losses)[3:], whole.std(0, ddof=1)[3:], atol=1e-12)
    _, _, area, _ = convergence_tables(weigh(results))
    assert [row[3:5] for row in area.rows] == [["8", "0"], ["8", "0"], ["6 of 8", "2"]]


def test_curves_end_with_the_last_seeds() -> None:
    curves = {0: [1.0, 2.0, 3.0], 1: [3.0, 4.0], 2: []}
    assert mean_curve(curves) == [2, 3, 3]
    assert deviation_curve(curves) == pytest.approx([math.sqrt(2)] * 2)
    assert mean_curve({0: []}) == mean_curve({}) == deviation_curve({}) == []


# An arm that does not learn


def at_chance(results: Results, *stuck: str) -> Results:
    """Return results in which some activations stay near 10 %, wherever that is recorded."""

    def near_chance(trial: SeedResult) -> SeedResult:
        epochs = [
            record.model_copy(
                update={
                    "metrics": record.metrics | {"test/accuracy": 10 + (trial.seed + i) % 3 / 10}
                }
            )
            for i, record in enumerate(trial.history.epochs)
        ]
        accuracy = epochs[-1].metrics["test/accuracy"]
        return replace(
            trial,
            history=trial.history.model_copy(update={"epochs": epochs}),
            result=replace(trial.result, accuracy=accuracy),
        )

    arms = [
        replace(
            arm,
            trials=[near_chance(t) for t in arm.trials] if arm.activation in stuck else arm.trials,
            evaluated=Evaluated(10, 360),
        )
        for arm in results.arms
    ]
    return replace(results, arms=arms)


def test_staying_at_chance_is_not_steadiness() -> None:
    results = at_chance(make_results(), "adarelu")
    (block,) = weigh(results).blocks
    leaky, adarelu = block.contenders
    assert (adarelu.converged, adarelu.reached) == (False, 0)
    assert adarelu.accuracy.comparison is not None
    assert adarelu.epochs_to_threshold.comparison is not None
    assert adarelu.deviation.comparison is adarelu.loss_area.comparison is None
    assert adarelu.spread_ratio is None
    for measure in (leaky.deviation, leaky.loss_area):
        assert measure.comparison is not None
        assert measure.comparison.p_holm == measure.comparison.p_value  # a family of one
    assert leaky.spread_ratio is not None
    _, *steadiness = convergence_tables(weigh(results))
    for table in steadiness:
        assert [row[2] for row in table.rows] == ["relu", "leaky_relu", "adarelu \N{DAGGER}"]
        assert table.rows[2][-3:] == ["-", "-", "-"]
        assert any(note.startswith("\N{DAGGER} No seed reached") for note in table.notes)
    ((_, lines),) = findings(weigh(results))
    assert lines[-1].startswith("adarelu: no seed reached the threshold of")
    assert "says nothing about stability" in lines[-1]


def test_a_baseline_at_chance_gives_no_threshold() -> None:
    results = at_chance(make_results(), "relu")
    (block,) = weigh(results).blocks
    assert block.threshold is None
    epochs, *steadiness = convergence_tables(weigh(results))
    assert any("no threshold, for relu did not learn" in note for note in epochs.notes)
    for arm in block.contenders:
        assert arm.deviation.comparison is arm.loss_area.comparison is arm.spread_ratio is None
    for table in steadiness:
        assert any("not compared, for relu did not learn" in note for note in table.notes)
        assert all(row[-3:] == ["-", "-", "-"] for row in table.rows)
    given_ = replace(results, threshold=50.0)
    (block,) = weigh(given_).blocks
    assert [arm.converged for arm in block.arms] == [False, True, True]
    assert all(arm.spread_ratio is None for arm in block.arms)
    note = convergence_tables(weigh(given_))[1].notes[1]
    assert note.endswith("not compared, for no seed of relu reached the threshold.")


def test_diverged_trials_do_not_lower_the_threshold() -> None:
    results = make_results(diverged={("relu", 1), ("relu", 2)})
    relu = results.arms[0]
    (block,) = weigh(results).blocks
    well = [t.result.accuracy for t in relu.trials if not t.result.diverged]
    assert len(well) == 6
    assert block.threshold == pytest.approx(0.95 * fmean(well))
    note = convergence_tables(weigh(results))[0].notes[0]
    assert note.endswith("over the trials that did not diverge.")
    (block,) = weigh(CASES["all diverged"]()).blocks
    assert block.threshold is None
    assert block.origin == "every trial of relu diverged"


def test_what_it_was_evaluated_on_is_read_from_the_confusion_matrix(command: Command) -> None:
    assert {arm.evaluated for arm in collected(command).arms} == {Evaluated(10, 100)}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "still running: 9 of 24"),
        ("interrupted", "resume by-hand"),
        ("failed", "failed"),
    ],
)
def test_an_unfinished_study_says_so_first(state: Any, said: str) -> None:
    results = without(make_results(state=state), lambda a, t: t.seed < 3)
    assert said in state_words(results)[0]
    for text in (as_table(results), as_markdown(results), as_summary(results)):
        assert said in "\n".join(text.splitlines()[:4])
    assert said in as_html(results, []).split("In plain words")[0]
    assert state_words(make_results()) == []


def test_json_is_bit_for_bit() -> None:
    results = make_results()
    for arm, written_ in zip(results.arms, json.loads(as_json(results))["arms"], strict=True):
        for trial, entry in zip(arm.trials, written_["trials"], strict=True):
            assert entry["test_accuracy"] == trial.result.accuracy
            assert entry["curves"]["train/loss"] == trial.curve("train/loss")
        accuracies = list(arm.accuracies().values())
        assert written_["mean"] == pytest.approx(fmean(accuracies), rel=1e-12)
        assert written_["std"] == pytest.approx(stdev(accuracies), rel=1e-12)


def test_the_baseline_is_relu_unless_said_otherwise() -> None:
    assert choose_baseline(["gelu", "relu"], None) == "relu"
    assert choose_baseline(["gelu", "leaky_relu(negative_slope=0.1)"], None) == "gelu"
    assert choose_baseline(["gelu", "relu"], "gelu") == "gelu"
    with pytest.raises(UserError, match="did you mean 'gelu'"):
        choose_baseline(["gelu", "relu", "gelu"], "gelo")


# Tables


def test_what_activations_do_is_in_the_tables() -> None:
    results = make_results()
    branches, dead, batch = (
        table(results) for table in (branch_table, dead_unit_table, batch_size_table)
    )
    assert branches is not None
    assert dead is not None
    assert batch is not None
    assert [row[2] for row in branches.rows] == ["adarelu"]
    probed = results.arms[2].probe("negative_branch_rate")
    assert list(probed) == LAYERS
    last = 100 * fmean(series[-1] for series in probed.values())
    assert branches.rows[0][5] == f"{last:.1f}"
    assert [row[2] for row in dead.rows] == ["relu", "leaky_relu", "adarelu"]
    assert LAYERS[-1] in dead.rows[0][4] or LAYERS[-2] in dead.rows[0][4]
    assert [column.heading for column in batch.columns[4:]] == [
        f"batches of {size} (%)" for size in (1, 32, 1000)
    ]
    values = list(results.arms[2].last("test/accuracy_batch_1").values())
    assert batch.rows[0][4] == f"{fmean(values):.2f} ({stdev(values):.2f})"
    bare = CASES["one activation"]()
    assert branch_table(bare) is None
    assert batch_size_table(bare) is None


def test_the_papers_own_protocol_differs_in_nothing_it_states() -> None:
    for file in sorted(STUDIES.glob("paper-*.toml")):
        study = read_study(file, (), None)
        differing = {
            (cell.settings.activation.name, difference.aspect)
            for cell in cells(study)
            for difference in protocol_differences(cell.settings, len(study.matrix.seeds))
        }
        assert differing == {("prelu", "activation")}


@pytest.mark.parametrize(
    ("override", "aspect", "here"),
    [
        ("training.epochs=30", "epochs", "30"),
        ("training.batch_size=128", "batch size", "128"),
        ("training.optimizer.lr=0.1", "learning rate", "0.1"),
        ("training.optimizer.momentum=0.8", "momentum", "0.8"),
        ("training.optimizer.weight_decay=0.0005", "weight decay", "0.0005"),
        ("training.optimizer.nesterov=true", "Nesterov momentum", "yes"),
        ("training.optimizer={name='adam'}", "optimizer", "adam"),
        ("training.schedule={name='cosine'}", "learning rate schedule", "cosine"),
        ("training.schedule.gamma=0.1", "learning rate schedule", "step (step_size 20, gamma 0.1)"),
        ("training.augmentation='crop_flip'", "augmentation", "crop_flip (padding 4, flip True)"),
        ("matrix.seeds=5", "models per arm", "5"),
        ("matrix.dataset='digits'", "data set", "digits"),
        ("data.train_limit=500", "images", "at most 500 for training, all for testing"),
        ("matrix.network={name='resnet18', width=0.5}", "width of the network", "0.5 times"),
        ("matrix.activation='gelu'", "activation", "gelu"),
        ("training.precision='bf16'", "precision", "bf16"),
        ("training.eval_batch_size=1000", "batch size of evaluation", "1000, in training 32"),
    ],
)
def test_every_departure_from_the_protocol_is_listed(override: str, aspect: str, here: str) -> None:
    study = read_study(STUDIES / "paper-cifar10.toml", (override,), None)
    settings = next(cells(study)).settings
    found = {d.aspect: d.here for d in protocol_differences(settings, len(study.matrix.seeds))}
    assert found[aspect].startswith(here)
    assert set(found) - {aspect} <= {"momentum", "batch size of evaluation"}


def test_published_figures_stand_beside_the_measured_ones() -> None:
    study = make_study(dataset="cifar10", network=["vgg16_bn", "resnet18"], seeds=2)
    table = published_table(weigh(make_results(study)))
    assert table is not None
    shown = {tuple(row[:3]): row[-2:] for row in table.rows}
    assert shown["cifar10", "vgg16_bn", "adarelu"] == ["93.91", "-"]
    assert shown["cifar10", "resnet18", "relu"] == ["94.75", "-"]
    protocol = protocol_table(make_results(study))
    assert protocol is not None
    assert ["epochs", "100", "12", "all"] in protocol.rows
    assert published_table(weigh(make_results())) is None
    assert protocol_table(make_results()) is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=30", (93.0, 95.7)),
        ("training.schedule='constant'", (93.0, 95.7)),
        ("training.optimizer.lr=0.05", None),
        ("training.optimizer.weight_decay=0.0", None),
        ("training.optimizer={name='adam'}", None),
        ("training.augmentation='none'", None),
        ("data.train_limit=500", None),
        ("matrix.network={name='resnet18', width=0.5}", None),
        ("matrix.activation='gelu'", None),
    ],
)
def test_public_figures_stand_only_beside_what_follows_their_recipe(
    override: str, expected: Any
) -> None:
    study = read_study(STUDIES / "standard-cifar10.toml", ("matrix.network='resnet18'", override))
    assert standard_accuracy(next(cells(study)).settings) == expected


def test_a_test_set_smaller_than_a_batch_is_said() -> None:
    results = make_results()
    table = batch_size_table(results)
    assert table is not None
    assert len(table.notes) == 1
    small = [replace(arm, evaluated=Evaluated(10, 360)) for arm in results.arms]
    table = batch_size_table(replace(results, arms=small))
    assert table is not None
    assert table.notes[1:] == ["digits has 360 test images: a batch of 1000 is one of all of them."]


def test_a_search_is_shown() -> None:
    trials = [
        SearchTrial(0, {"optimizer.lr": 0.01}, 80.0, "complete", 5),
        SearchTrial(1, {"optimizer.lr": 0.123456}, 91.5, "complete", 5),
        SearchTrial(2, {"optimizer.lr": 1.0}, 20.0, "pruned", 1),
        SearchTrial(3, {"optimizer.lr": 1.0}, None, "failed", 0),
    ]
    search = ArmSearch("digits", "vgg16_bn", "relu", 5, trials, trials[1])
    (section,) = [s for s in sections(weigh(make_results(searches=[search]))) if s.key == "search"]
    cells_ = ["digits", "vgg16_bn", "relu", "3 of 5", "1", "1", "91.50", "optimizer.lr 0.1235"]
    assert section.tables[0].rows == [cells_]


@pytest.mark.long
def test_ranks_are_refused_in_a_sentence_or_shown() -> None:
    few = make_results()
    (section,) = [s for s in sections(weigh(few)) if s.key == "ranks"]
    assert section.tables == []
    assert section.text == [weigh(few).ranking]
    network = [{"name": "vgg16_bn", "width": width} for width in (0.1, 0.2, 0.3, 0.4, 0.5)]
    activation = ["relu", "elu", "gelu"]
    many = make_results(make_study(network=network, seeds=1, activation=activation))
    (section,) = [s for s in sections(weigh(many)) if s.key == "ranks"]
    assert section.text == []
    assert section.tables[0].rows[0][0] == "relu"
    (figure,) = [i.draw() for i in illustrations(weigh(many)) if i.section == "ranks"]
    drawn = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(label in drawn for label in ["CD = 1.5", *activation])


# How tables are written


def assert_balanced(latex: str) -> None:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


@given(st.text(alphabet=st.sampled_from("ab1 &%$#_{}~^\\<>|-\"'é"), max_size=30))
def test_latex_escapes_whatever_a_label_holds(text: str) -> None:
    table = Table("key", text, [Column(text)], [[text]], [text])
    latex = render.as_latex(table)
    (row,) = [line for line in latex.splitlines() if line.endswith("\\\\")][1:]
    bare = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\$-\$", "", row.removesuffix("\\\\"))
    assert not set(bare) & set("&%$#_{}~^\\<>|")
    assert_balanced(latex)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\\"), max_size=30))
def test_markdown_keeps_a_label_in_its_cell(text: str) -> None:
    table = Table("key", "title", [Column("a"), Column("b", False)], [[text, "x"]])
    (line,) = [row for row in render.as_markdown(table).split("\n") if row][2:]
    cells_ = re.split(r"(?<!\\)\|", line)[1:-1]
    assert [cell[1:-1].replace("\\|", "|") for cell in cells_] == [text, "x"]


def test_numbers_as_text() -> None:
    assert [fixed(v) for v in (None, math.nan, math.inf, 1.005, -0.001, 0.0)] == [
        *("-", "-", "-"),
        *("1.00", "0.00", "0.00"),
    ]
    assert [fixed(v, 1, sign=True) for v in (1.0, -1.0, 0.0)] == ["+1.0", "-1.0", "0.0"]
    assert [probability(p) for p in (None, 1.0, 0.0123, 0.00123, 1e-9)] == [
        *("-", "1.000", "0.012", "0.0012", "<0.0001"),
    ]


# Figures


def test_figures_show_the_numbers_in_one_colour_per_activation() -> None:
    from matplotlib.colors import to_hex

    from adarelu_sweep.reporting.figures import draw_curves, draw_differences, draw_spread

    results = make_results()
    evidence = weigh(results)
    palette = Palette(results.activations)
    assert len({palette.colour(label) for label in results.activations}) == 3
    curves = draw_curves(results.blocks[0], palette).axes[3]
    spread = draw_spread(evidence.blocks, palette).axes[0]
    for arm in results.arms:
        (line,) = [line for line in curves.lines if line.get_label() == arm.activation]
        seeds = np.array(list(arm.curves("test/accuracy").values()))
        np.testing.assert_allclose(line.get_ydata(), seeds.mean(0))
        (deviation,) = [line for line in spread.lines if line.get_label() == arm.activation]
        np.testing.assert_allclose(deviation.get_ydata(), seeds.std(0, ddof=1))
        colour = palette.colour(arm.activation)
        assert to_hex(line.get_color()) == to_hex(deviation.get_color()) == colour
    differences = draw_differences(evidence.blocks, palette).axes[0]
    drawn = [list(line.get_xdata()) for line in differences.lines if line.get_marker() == "o"]
    relu = results.arms[0].accuracies()
    expected = [[v - relu[s] for s, v in arm.accuracies().items()] for arm in results.arms[1:]]
    assert drawn == expected


def test_the_shapes_are_those_of_the_modules() -> None:
    from adarelu_sweep.reporting.layer_figures import draw_shapes

    results = make_results()
    figure = draw_shapes(results.variants, Palette(results.activations))
    plain, twofold = figure.axes
    curves = {line.get_label(): line for line in [*plain.lines, *twofold.lines]}
    x = np.asarray(curves["relu"].get_xdata())
    np.testing.assert_array_equal(curves["relu"].get_ydata(), np.maximum(x, 0))
    np.testing.assert_array_equal(
        curves["in a mostly negative batch"].get_ydata(), np.maximum(x, 0)
    )
    np.testing.assert_array_equal(
        curves["in a mostly positive batch"].get_ydata(), np.minimum(x, 0)
    )


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    results = make_results(make_study(seeds=2, activation=["relu", "gelu"]))
    for name in ("a", "b"):
        write_report(results, tmp_path / name)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
            )


# The folder


def test_writers_of_the_same_folder_do_not_mix(tmp_path: Path) -> None:
    results = make_results(make_study(seeds=2))
    errors: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(5):
                write_report(results, tmp_path / "out", figures=False)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"figures"}


def test_a_killed_writer_leaves_no_half_report(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code = f"""
from pathlib import Path
from adarelu_sweep.reporting.report import write_report
from tests.reports import make_results, make_study
results = make_results(make_study(seeds=2))
while True:
    write_report(results, Path({str(folder)!r}), figures=False)
"""
    for delay in (0.0, 0.013, 0.029):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
        while not folder.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        if folder.exists():  # it is not, between two renames
            assert {path.name for path in folder.iterdir()} == FILES - {"figures"}
            json.loads((folder / "report.json").read_text())
            shutil.rmtree(folder)


def test_what_killed_writers_left_is_cleared_an_hour_later(tmp_path: Path) -> None:
    results = make_results(make_study(seeds=1, activation="relu"))
    left = [f".out.{'ab' * 16}{ending}" for ending in ("", ".old")]
    others = [".out", ".out.notes", f".other.{'ab' * 16}", f".out.{'ab' * 16}.mine"]
    for name in [*left, *others]:
        (tmp_path / name / "tables").mkdir(parents=True)
        os.utime(tmp_path / name, (0, 0))
    fresh = f".out.{'cd' * 16}"
    (tmp_path / fresh).mkdir()
    write_report(results, tmp_path / "out", figures=False)
    assert {path.name for path in tmp_path.iterdir()} == {"out", fresh, *others}


# What the tracker is told


def test_the_tracker_gets_mean_curves_and_the_best_trial(tmp_path: Path) -> None:
    results = make_results(diverged={("adarelu", 2)})
    told = study_report(results, tmp_path)
    assert told.folder == tmp_path
    assert "| data set |" in told.note
    assert "## In plain words" in told.note
    relu, _, adarelu = told.arms
    assert relu.name == "relu, vgg16_bn, digits: mean of 8 seeds"
    assert relu.arm == "digits/vgg16_bn/relu"
    palette = Palette(results.activations)
    assert [arm.colour for arm in told.arms] == list(map(palette.colour, results.activations))
    assert relu.params["training.optimizer.lr"] == "0.01"
    assert "seed" not in relu.params
    seeds = np.array(list(results.arms[0].curves("test/accuracy").values()))
    np.testing.assert_allclose(relu.metrics["test/accuracy"], seeds.mean(0))
    np.testing.assert_allclose(relu.metrics["test/accuracy_std"], seeds.std(0, ddof=1))
    assert {len(curve) for curve in relu.metrics.values()} == {12}
    lengths = {len(curve) for curve in adarelu.metrics.values()}
    assert lengths == {12}  # though one trial has 4 epochs
    assert set(relu.metrics) == {
        f"{split}/{quantity}{of}"
        for split in ("train", "test")
        for quantity in ("loss", "accuracy")
        for of in ("", "_std")
    }
    assert told.best is not None
    finished = [t for arm in results.arms for t in arm.trials if not t.result.diverged]
    best = max(finished, key=lambda trial: trial.result.accuracy)
    assert told.best.key == str(best.number)
    assert told.best.folder == best.folder
    assert "optimistic" in told.best.description


def test_of_equal_trials_the_first_is_the_best(tmp_path: Path) -> None:
    results = make_results(make_study(seeds=3), diverged={("relu", 0)})
    arms = [
        replace(
            arm,
            trials=[replace(t, result=replace(t.result, accuracy=90.0)) for t in arm.trials],
        )
        for arm in results.arms
    ]
    told = study_report(replace(results, arms=arms), tmp_path)
    assert told.best is not None
    assert told.best.key == "1"
    assert study_report(CASES["nothing finished"](), tmp_path).best is None
    assert study_report(CASES["nothing finished"](), tmp_path).arms == []
    one = study_report(CASES["one seed"](), tmp_path).arms[0]
    assert not any(name.endswith("_std") for name in one.metrics)
