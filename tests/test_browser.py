"""A study in MLflow's UI as a person finds it, in a real Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from adarelu_sweep.home import Home
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.supervising.ledger import Ledger
from adarelu_sweep.tracking.client import prepare_client
from adarelu_sweep.tracking.mlflow_tracker import MlflowTracker
from adarelu_sweep.tracking.server import ensure_server
from adarelu_sweep.tracking.study_report import ArmCurves, StudyReport
from adarelu_sweep.training.history import History
from tests.screenshots import CHROMEDRIVER, CHROMIUM, Pages, open_pages
from tests.sweeps import STUDY, Command

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and CHROMEDRIVER.exists()),
        reason="needs Debian's chromium and chromium-driver",
    ),
]

NOTE = "Test accuracy of a small study:\n\n| activation | mean (%) |\n|---|---|\n| relu | 12.5 |\n"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A study that the command has trained, with a report of known text."""
    prepare_client()
    command = Command(tmp_path_factory.mktemp("browser") / "home")
    path = command.home.parent / "small.toml"
    path.write_text(STUDY)
    try:
        command.succeed("launch", path)
        home = Home(command.home)
        url = ensure_server(home).url
        record = Ledger.existing(home.optuna_db).open("small").record
        folder = command.home.parent / "report"
        folder.mkdir()
        (folder / "report.html").write_text("<h1>The whole report</h1>")
        tracker = MlflowTracker(url, record, home.study_folder("small"))
        tracker.end_study("FINISHED", StudyReport(folder, NOTE, arms(home)))
        with open_pages(url, "small") as pages:
            yield pages
    finally:
        command.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    return Path(os.environ.get("ADARELU_SCREENSHOTS") or tmp_path)


def arms(home: Home) -> list[ArmCurves]:
    """The means over the seeds of what the study's trials have measured."""
    ledger = Ledger.existing(home.optuna_db).open("small")
    settings = {cell.key: cell.settings for cell in cells(ledger.record.study)}
    histories: dict[str, list[History]] = {}
    for trial in ledger.trials():
        activation = settings[trial.cell].activation.label
        history = History.read(home.trial_folder("small", trial.number))
        histories.setdefault(activation, []).append(history)
    keys = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")
    return [
        ArmCurves(
            f"{activation}, vgg16_bn, digits: mean of 2 seeds",
            f"digits/vgg16_bn/{activation}",
            {"activation.name": activation},
            {
                key: [
                    fmean(record.metrics[key] for record in records)
                    for records in zip(*(history.epochs for history in of_arm), strict=True)
                ]
                for key in keys
            },
        )
        for activation, of_arm in histories.items()
    ]


def test_the_list_shows_the_arms_and_then_the_study(pages: Pages, screenshots: Path) -> None:
    listed = pages.run_list()
    pages.photograph(screenshots / "mlflow-list.png")
    assert listed == [
        "relu, vgg16_bn, digits: mean of 2 seeds",
        "adarelu, vgg16_bn, digits: mean of 2 seeds",
        "small",
    ]


def test_the_default_charts_compare_the_arms(pages: Pages, screenshots: Path) -> None:
    charts = pages.charts()
    pages.photograph(screenshots / "mlflow-charts.png")
    assert "test/accuracy" in charts
    for arm in ("relu", "adarelu"):
        assert f"\n{arm}, vgg16_bn, digits" in charts["test/accuracy"]


def test_the_study_run_shows_the_summary(pages: Pages, screenshots: Path) -> None:
    text = pages.study()
    pages.photograph(screenshots / "mlflow-study.png")
    assert "Test accuracy of a small study" in text
    assert "|---|" not in text, "the table is drawn, not written out"
    assert "relu, vgg16_bn(width=0.0625), digits: seed 00" in text


def test_the_report_opens_on_the_study_run(pages: Pages, screenshots: Path) -> None:
    text = pages.report("report.html")
    pages.photograph(screenshots / "mlflow-report.png")
    assert "The whole report" in text
