"""A study in MLflow's UI, opened in a real Chromium without a display.

``python -m tests.screenshots HOME NAME FOLDER`` photographs a study of a home into a folder.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from adarelu_sweep.home import Home
from adarelu_sweep.tracking.server import ensure_server

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")

_OPTIONS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # A mouse, or else plotly covers its charts with the buttons that a pointer would bring up.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4",
]
# MLflow opens a panel for its assistant at the first visit.
_BEFORE_EVERY_PAGE = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
_PATIENCE = 60  # seconds; a page takes two or three
_CARD = '[data-testid="experiment-view-compare-runs-card"]'
_T = TypeVar("_T")


@dataclass(frozen=True)
class Shown:
    """What the UI is to show of a study."""

    experiment: str
    study_run: str
    arms: list[str]
    """The names of the arms' runs, as they are listed."""

    @classmethod
    def find(cls, url: str, name: str) -> "Shown":
        """Ask the tracking server."""
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None, f"{url} has no experiment {name}"
        order = ["attributes.start_time DESC"]
        runs = client.search_runs([experiment.experiment_id], max_results=1000, order_by=order)
        kinds = [(run.data.tags["adarelu_sweep.kind"], run.info) for run in runs]
        return cls(
            experiment.experiment_id,
            next(info.run_id for kind, info in kinds if kind == "study"),
            [info.run_name for kind, info in kinds if kind == "arm"],
        )


class Pages:
    """MLflow's pages of one study; each method opens one and waits until it is drawn."""

    def __init__(self, driver: webdriver.Chrome, url: str, shown: Shown) -> None:
        self.driver = driver
        self._shown = shown
        self.url = url
        self._experiment = f"{url}/#/experiments/{shown.experiment}"

    def run_list(self) -> list[str]:
        """Open the experiment as a click on it does; return the names of the runs in its list."""
        self._open(self._experiment)
        last = (By.CSS_SELECTOR, f'a[href*="{self._shown.study_run}"]')
        self._until(lambda: self.driver.find_elements(*last))
        links = self.driver.find_elements(By.CSS_SELECTOR, 'a[href*="/runs/"]')
        return [link.text for link in links if link.text]

    def charts(self) -> dict[str, str]:
        """Open the chart view; return the text of each chart that is drawn, by its metric."""
        self._open(f"{self._experiment}/runs", "compareRunsMode=CHART")
        drawn = f"{_CARD} .scatterlayer .trace"
        self._until(lambda: self.driver.find_elements(By.CSS_SELECTOR, drawn))
        cards = self._until(
            lambda: [
                text
                for card in self.driver.find_elements(By.CSS_SELECTOR, _CARD)
                if all(arm in (text := card.text) for arm in self._shown.arms)
            ]
        )
        return {text.splitlines()[0]: text for text in cards}

    def study(self, child: str = "") -> str:
        """Open the study's run; return the page's text, from its description to its tags.

        The page is whole once it names its child runs, which it asks for last; ``child`` is one.
        """
        self._open(f"{self._experiment}/runs/{self._shown.study_run}")
        self._until(lambda: "Run ID" in self._text() and child in self._text())
        for more in self.driver.find_elements(By.XPATH, "//button[contains(., 'Show more')]"):
            more.click()
        return self._text()

    def report(self, file: str) -> str:
        """Open a file of the report on the study's run; return the text of its preview."""
        self._open(f"{self._experiment}/runs/{self._shown.study_run}/artifacts")
        self._until(lambda: self._artifact("report")).click()
        self._until(lambda: self._artifact(file)).click()
        frame = self._until(lambda: self.driver.find_elements(By.TAG_NAME, "iframe"))[0]
        self.driver.switch_to.frame(frame)
        try:
            return self._until(self._text)
        finally:
            self.driver.switch_to.default_content()

    def photograph(self, path: Path) -> None:
        """Keep what the page shows now."""
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(path)), path

    def _open(self, address: str, query: str = "") -> None:
        self.driver.get("about:blank")  # another address of the same page would not load anew
        self.driver.get(f"{address}?workflowType=machine_learning&{query}")

    def _artifact(self, name: str) -> WebElement | None:
        nodes = self.driver.find_elements(By.CSS_SELECTOR, '[data-testid="artifact-tree-node"]')
        return next((node for node in nodes if node.text.strip() == name), None)

    def _text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def _until(self, condition: Callable[[], _T | None]) -> _T:
        ignored = [StaleElementReferenceException]
        waiting = WebDriverWait(self.driver, _PATIENCE, ignored_exceptions=ignored)
        found = waiting.until(lambda _: condition() or False)
        assert found
        return found


@contextmanager
def open_pages(url: str, name: str) -> Iterator[Pages]:
    """Start a Chromium with a profile of its own, and end it afterwards."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    with TemporaryDirectory() as profile:
        for option in (*_OPTIONS, f"--user-data-dir={profile}", "--window-size=1500,1000"):
            options.add_argument(option)
        driver = webdriver.Chrome(options, Service(str(CHROMEDRIVER)))
        try:
            driver.execute_cdp_cmd(
                "Page.addScriptToEvaluateOnNewDocument", {"source": _BEFORE_EVERY_PAGE}
            )
            yield Pages(driver, url, Shown.find(url, name))
        finally:
            driver.quit()


def main(home: str, name: str, folder: str) -> None:
    """Photograph a study's list, charts, run and report."""
    with open_pages(ensure_server(Home.locate(Path(home))).url, name) as pages:
        for kind, show in {
            "list": pages.run_list,
            "charts": pages.charts,
            "study": pages.study,
            "report": lambda: pages.report("report.html"),
        }.items():
            show()
            pages.photograph(Path(folder) / f"mlflow-{kind}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
