"""Lets a test hold the processes of a sweep at a chosen moment; Python imports this at its start.

A folder, named by ``CHAOS_FOLDER``, says which moment: while it holds a file of the moment's name,
the first process that comes there renames that file, adding its process id, and waits until the
renamed file is gone. Signals are handled meanwhile. Nothing of this is in the package: what is
wrapped is found here, when its module is imported. The file ``CHAOS_EPOCHS`` gets a line for every
epoch that is begun: the folder of its trial.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = os.environ.get("CHAOS_FOLDER", "")
_EPOCHS = os.environ.get("CHAOS_EPOCHS", "")
_LONGEST = 180.0  # seconds, after which the test that holds it is taken for dead
_TICK = 0.01

_rename, _replace = os.rename, os.replace


def reach(moment: str) -> None:
    """Wait here if a test wants a process held at this moment."""
    held = f"{_FOLDER}/{moment}.{os.getpid()}"
    try:
        _rename(f"{_FOLDER}/{moment}", held)
    except OSError:
        return
    end = time.monotonic() + _LONGEST
    while os.path.exists(held):  # noqa: PTH110 (pathlib is wrapped in places)
        if time.monotonic() > end:
            os._exit(99)
        time.sleep(_TICK)


def _tasks(module: ModuleType) -> None:
    """At the start of a trial, between checkpoint and metrics, and at its end, in a worker."""
    run = module.TaskRunner.run
    moments = {"epoch": "metrics", "finished": "end"}

    def slowed(self: Any, task: Any, supervision: Any) -> None:
        say = supervision.send

        def send(message: Any) -> None:
            if message.kind in moments:
                reach(moments[message.kind])
            say(message)

        supervision.send = send
        try:
            reach("start")
            run(self, task, supervision)
        finally:
            supervision.send = say

    module.TaskRunner.run = slowed
    os.rename, os.replace = _before_checkpoint(_rename), _before_checkpoint(_replace)


def _before_checkpoint(move: Callable[..., None]) -> Callable[..., None]:
    """While the checkpoint is written: it lies there under another name."""

    def slowed(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name.startswith("checkpoint"):
            reach("checkpoint")
        move(source, target, **options)

    return slowed


def _loop(module: ModuleType) -> None:
    """In the midst of an epoch: before its second step. Its first step is noted."""
    check = module.Trial._check_stop  # before every step

    def slowed(self: Any) -> None:
        check(self)
        epoch = len(self.history.epochs)
        if getattr(self, "_chaos_epoch", None) == epoch:
            reach("epoch")
        else:
            with open(_EPOCHS, "a") as file:  # noqa: PTH123 (a line is written as one)
                file.write(f"{self.folder}\n")
        self._chaos_epoch = epoch

    module.Trial._check_stop = slowed


def _uploads(module: ModuleType) -> None:
    """While a trial's artifacts are uploaded: the model is not, the others are."""
    upload = module._PatientRepository.log_artifact

    def slowed(self: Any, local_file: str, artifact_path: str | None = None) -> None:
        if Path(local_file).name == "model.safetensors":
            reach("artifacts")
        upload(self, local_file, artifact_path)

    module._PatientRepository.log_artifact = slowed


def _changes(module: ModuleType) -> None:
    """When the supervisor has written a trial's result, and not yet committed what it wrote."""
    insert = module._insert_attributes  # the last of the transaction

    def slowed(connection: Any, trial_id: int, attributes: Any) -> None:
        insert(connection, trial_id, attributes)
        if "result" in attributes:
            reach("books")

    module._insert_attributes = slowed


def _report(module: ModuleType) -> None:
    """While the report is written: its tables are, its pages are not."""
    draw = module.as_markdown

    def slowed(*arguments: Any) -> Any:
        reach("report")
        return draw(*arguments)

    module.as_markdown = slowed


def _model(module: ModuleType) -> None:
    """When the best model is about to be logged, by a process of its own."""
    log = module.Model.log

    def slowed(*arguments: Any, **named: Any) -> Any:
        reach("registration")
        return log(*arguments, **named)

    module.Model.log = slowed


def _migration(module: ModuleType) -> None:
    """While MLflow's server makes a database: a table or column is there, and not noted yet."""
    for change in ("add_column", "create_table"):
        setattr(module.DefaultImpl, change, _then_migration(getattr(module.DefaultImpl, change)))


def _then_migration(change: Callable[..., None]) -> Callable[..., None]:
    def slowed(*arguments: Any, **named: Any) -> None:
        change(*arguments, **named)
        reach("migration")

    return slowed


_WRAPPED = {
    "adarelu_sweep.launching.tasks": _tasks,
    "adarelu_sweep.training.loop": _loop,
    "adarelu_sweep.reporting.report": _report,
    "adarelu_sweep.recording.changes": _changes,
    "alembic.ddl.impl": _migration,
    "adarelu_sweep.tracking.uploading": _uploads,
    "mlflow.models.model": _model,
}


class _WrappingLoader(Loader):
    def __init__(self, loader: Loader, wrap: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._wrap = wrap

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._wrap(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _WRAPPED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WrappingLoader(spec.loader, _WRAPPED[name])
        return spec


if _FOLDER:
    sys.meta_path.insert(0, _Finder())
