"""Running the command as a user does: real processes, a home of its own, a clean environment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

STUDY = """
name = "small"
[matrix]
dataset = "digits"
network = { name = "vgg16_bn", width = 0.0625 }
activation = ["relu", "adarelu"]
seeds = 2
[data]
train_limit = 256
test_limit = 100
[training]
epochs = 3
optimizer = { name = "sgd", lr = 0.02, momentum = 0.9 }
[report] # what takes its time is tried by the tests that are about it
figures = false
register_model = false
"""

_PATIENCE = 120.0  # seconds from the last word of a sweep to its end


def environment(**extra: str) -> dict[str, str]:
    """The environment without what would point the command elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ADARELU_", "MLFLOW_"))}
    return kept | extra


class Command:
    """``adarelu-sweep`` with one home."""

    def __init__(self, home: Path, **extra: str) -> None:
        self.home = home
        self.environment = environment(ADARELU_SWEEP_HOME=str(home), **extra)
        self.patience: float | None = None
        """Seconds after which a study that ended gives its records up, if not those of a user."""
        self.silence: float | None = None
        """Seconds after which a silent database server counts as lost, if not those of a user."""
        self._started: list[subprocess.Popen[str]] = []

    def _program(self) -> list[str]:
        hurries = []
        if self.patience is not None:
            patience = f"running._PATIENCE['complete'] = {self.patience}"
            hurries.append(f"supervising import running; {patience}")
        if self.silence is not None:
            hurries.append(f"recording import silence; silence.PATIENCE = {self.silence}")
        if not hurries:
            return ["-m", "adarelu_sweep"]
        changed = "; ".join(f"from adarelu_sweep.{hurry}" for hurry in hurries)
        return ["-c", f"{changed}; from adarelu_sweep.cli.main import main; main()"]

    def start(self, *arguments: str | Path, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, *self._program(), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen(command, text=True, env=self.environment, **pipes)
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what a failed test has left, and the home's server."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self.run("server", "stop")

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def succeed(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self.succeed(*arguments))


class Sweep:
    """A sweep that runs, and what it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.said = ""

    def until(self, pattern: str, times: int = 1) -> None:
        """Read on until it has said this so often."""
        assert self.process.stderr is not None
        while len(re.findall(pattern, self.said)) < times:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line

    def ends(self) -> int:
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        return self.process.wait(_PATIENCE)
