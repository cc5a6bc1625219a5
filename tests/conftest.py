"""Fixtures that several tests share."""

from pathlib import Path

import pytest

from tests.sweeps import STUDY


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home or tracking server of the person who runs the tests."""
    for name in ("ADARELU_SWEEP_HOME", "ADARELU_SWEEP_GPU_LISTING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study of four short trials."""
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path
