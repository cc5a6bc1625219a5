"""A study in MLflow's UI as a person finds it, in a real Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.screenshots import CHROMEDRIVER, CHROMIUM, Pages, open_pages
from tests.sweeps import STUDY, Command

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and CHROMEDRIVER.exists()),
        reason="needs Debian's chromium and chromium-driver",
    ),
]

ARMS = ["relu", "adarelu"]
LABEL = "vgg16_bn(width=0.0625), digits"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A study that the command has trained."""
    command = Command(tmp_path_factory.mktemp("browser") / "home")
    path = command.home.parent / "small.toml"
    path.write_text(STUDY.partition("[report]")[0])  # with all that a study's end makes
    try:
        command.succeed("launch", path)
        with open_pages(command.succeed("server", "start").strip(), "small") as pages:
            yield pages
    finally:
        command.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    return Path(os.environ.get("ADARELU_SCREENSHOTS") or tmp_path)


def test_the_list_shows_the_arms_and_then_the_study(pages: Pages, screenshots: Path) -> None:
    listed = pages.run_list()
    pages.photograph(screenshots / "mlflow-list.png")
    assert listed == [*(f"{arm}, {LABEL}: mean of 2 seeds" for arm in ARMS), "small"]


def test_the_default_charts_compare_the_arms(pages: Pages, screenshots: Path) -> None:
    charts = pages.charts()
    pages.photograph(screenshots / "mlflow-charts.png")
    assert "test/accuracy" in charts
    for arm in ARMS:
        assert f"\n{arm}, vgg16_bn" in charts["test/accuracy"]


def test_the_study_run_shows_the_summary(pages: Pages, screenshots: Path) -> None:
    text = pages.study(child=f"relu, {LABEL}: seed 00")
    pages.photograph(screenshots / "mlflow-study.png")
    assert "Test accuracy against relu, paired by seed" in text
    assert "|---|" not in text, "the table is drawn, not written out"


def test_the_report_opens_on_the_study_run(pages: Pages, screenshots: Path) -> None:
    text = pages.report("report.html")
    pages.photograph(screenshots / "mlflow-report.png")
    assert "In plain words" in text
    assert "adarelu against relu" in text or "adarelu is" in text


def test_the_end_of_a_study_left_figures_and_a_registered_model(pages: Pages) -> None:
    client = MlflowClient(tracking_uri=pages.url)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (study,) = client.search_runs([experiment.experiment_id], "tags.`adarelu_sweep.kind` = 'study'")
    drawn = {file.path for file in client.list_artifacts(study.info.run_id, "report/figures")}
    assert {"report/figures/shapes.png", "report/figures/differences.svg"} <= drawn
    best = client.get_model_version_by_alias("small", "best")
    trials = client.search_runs(
        [experiment.experiment_id],
        "tags.`adarelu_sweep.kind` = 'trial'",
        order_by=["metrics.`test/accuracy` DESC"],
    )
    assert best.run_id in {
        run.info.run_id
        for run in trials
        if run.data.metrics["test/accuracy"] == trials[0].data.metrics["test/accuracy"]
    }
