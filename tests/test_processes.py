"""What a process of our own finds in the folder that it is started in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Does what a launch does: starts a process of our own that loads a user's activation.
PARENT = """
import subprocess, sys
from adarelu_sweep.processes import own_command
done = subprocess.run(own_command("adarelu_sweep.training.sizes"), input=sys.argv[1], text=True)
sys.exit(done.returncode)
"""
PART = {
    "network": {"name": "vgg16", "arguments": {"width": 0.0625}, "label": ""},
    "activation": {"name": "mine:Own", "arguments": {}, "label": ""},
    "channels": 1,
    "classes": 10,
}


@pytest.mark.parametrize("options", [(), ("-P",)], ids=["as usual", "with a safe path"])
def test_users_modules_are_found_and_take_the_place_of_no_library(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "mine.py").write_text("from torch.nn import ReLU as Own\n")
    (tmp_path / "safetensors.py").write_text("raise SystemExit('not the library')\n")
    (tmp_path / "pydantic.py").write_text("raise SystemExit('not the library')\n")
    done = subprocess.run(
        [sys.executable, *options, "-c", PARENT, json.dumps([PART])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert "not the library" not in done.stderr
    if options:
        assert "there is no package 'mine'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0]["weights"] > 0
