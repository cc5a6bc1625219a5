"""Workers as subprocesses of this machine."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from pydantic import ValidationError

from adarelu_sweep.launching.launcher import Gone, Launcher, Report, Said, Slot, Worker
from adarelu_sweep.launching.messages import FROM_WORKER, Interrupted, Quit, ToWorker
from adarelu_sweep.processes import own_command
from adarelu_sweep.storing.objects import CREDENTIALS

# A worker knows no server, and holds no credentials unless they are granted.
_WITHHELD = ("MLFLOW_", "OPTUNA_", "PG", "ADARELU_SWEEP_STORAGE", *CREDENTIALS)

WORKER = "adarelu_sweep.launching.worker"

_PATIENCE = 5.0  # seconds that workers have to quit, all together, before they are killed
_KILL_PATIENCE = 5.0  # seconds that a killed one has to be gone
_LAST_WORDS = 1.0  # seconds to read what a worker has said before it ended


class LocalWorker(Worker):
    """A worker process: messages to its standard input, from its standard output, a line each.

    ``module`` is what it runs: that of a worker, or one that does more beside.
    """

    def __init__(
        self,
        slot: Slot,
        report: Report,
        log: Path,
        granted: Sequence[str] = (),
        module: str = WORKER,
    ) -> None:
        self.slot = slot
        self._report = report
        self._sending = Lock()
        self._reporting = Lock()
        self._gone = False
        self._may_go = False
        """Whether it was told to go, or has said that it was asked to."""
        with log.open("ab") as log_file:
            self._process = subprocess.Popen(
                own_command(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=environment(slot, granted),
                # Out of the terminal's process group: Ctrl-C is the supervisor's to handle. Within
                # its session: every other would get as much of the CPU, whatever its priority.
                process_group=0,
            )
        self._listener = Thread(target=self._listen, name=f"worker-{slot.index}", daemon=True)
        self._listener.start()
        Thread(target=self._await_end, name=f"end-{slot.index}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:  # noqa: D102
        stream = self._process.stdin
        assert stream is not None
        self._may_go |= isinstance(message, Quit)
        with self._sending, suppress(OSError, ValueError):  # broken or closed pipe: it is gone
            stream.write(message.model_dump_json().encode() + b"\n")
            stream.flush()

    def kill(self) -> None:  # noqa: D102
        self._end_group()
        with suppress(ProcessLookupError):
            self._process.kill()

    def join(self, timeout: float) -> None:
        """Wait for the process to end, and kill it after ``timeout`` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
            return
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it ends when it can
            self._process.wait(_KILL_PATIENCE)

    def _listen(self) -> None:
        receiving = self._process.stdout
        assert receiving is not None
        for line in receiving:
            try:
                message = FROM_WORKER.validate_json(line)
            except ValidationError:
                # Cut off in the middle of a line: the process is ending, Gone follows.
                continue
            with self._reporting:
                if self._gone:
                    return
                self._may_go |= isinstance(message, Interrupted) and message.leaving
                self._report(Said(self, message))

    def _await_end(self) -> None:
        """Report the end; what the process said before comes first.

        The end of its output alone would not do: a process that it has forked may hold that open.
        """
        returncode = self._process.wait()
        self._listener.join(_LAST_WORDS)
        self._end_group()
        sending = self._process.stdin
        assert sending is not None
        with self._sending, suppress(OSError):  # what was not sent has nowhere to go
            sending.close()
        with self._reporting:
            self._gone = True
            # The exit code alone does not tell: the code of a trial may exit, too.
            in_order = self._may_go and returncode == 0
            self._report(Gone(self, _describe(returncode), in_order))

    def _end_group(self) -> None:
        """Kill what the worker has started, too: it would keep the slot's memory."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class LocalLauncher(Launcher):
    """Starts worker processes on this machine.

    Args:
        report: Takes the events.
        logs: Where the workers' output goes.
        granted: As ``environment`` takes it.
        module: As ``LocalWorker`` takes it.
    """

    def __init__(
        self,
        report: Report,
        logs: Path,
        granted: Sequence[str] = (),
        module: str = WORKER,
    ) -> None:
        self._report = report
        self._logs = logs
        self._granted = granted
        self._module = module
        self._workers: list[LocalWorker] = []

    def start(self, slot: Slot) -> LocalWorker:  # noqa: D102
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"worker-{slot.index}.log"
        worker = LocalWorker(slot, self._report, log, self._granted, self._module)
        self._workers = [w for w in self._workers if w._process.poll() is None] + [worker]
        return worker

    def close(self) -> None:  # noqa: D102
        for worker in self._workers:
            worker.send(Quit())
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.join(timeout=max(0, deadline - time.monotonic()))
        self._workers.clear()


def environment(slot: Slot, granted: Sequence[str] = ()) -> dict[str, str]:
    """Return a worker's environment: its own GPU or no GPU, its threads, and no credentials.

    But for those that are ``granted``, by what the names of their variables begin with: who has
    checkpoints or data sets in a store needs the store's.
    """
    withheld = tuple(each for each in _WITHHELD if each not in granted)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(withheld)}
    own = {
        "CUDA_VISIBLE_DEVICES": slot.gpu or "",
        "OMP_NUM_THREADS": str(slot.threads),
        "MKL_NUM_THREADS": str(slot.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic algorithms need on CUDA
    }
    # A stream for each trial of a pack, and CUDA serves 8 side by side if not told otherwise.
    streams = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}
    # Threads that spin while they wait lose most of a core to anything else that runs: an epoch of
    # a small network beside one busy process took 12 s, with this 3.5 s, and alone 0.7 and 0.8 s.
    return {"GOMP_SPINCOUNT": "1000"} | streams | kept | own


def _describe(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with {returncode}"
    known = {s.value: s.name for s in signal.Signals}
    return f"was killed by {known.get(-returncode, f'signal {-returncode}')}"
