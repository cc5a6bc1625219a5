"""The process that a slot runs: takes tasks, trains them, says what happened.

Imports neither optuna nor mlflow and holds no credentials. It may die at any moment: what it has
done stands in the checkpoint, and what it was doing is done again by another.
"""

import os
import platform
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import BinaryIO

from adarelu_sweep._version import __version__
from adarelu_sweep.launching.messages import (
    TO_WORKER,
    Decision,
    FromWorker,
    Quit,
    Ready,
    Stop,
    Task,
)
from adarelu_sweep.processes import die_with_parent, search_current_folder_last
from adarelu_sweep.signals import stop_signals

_NICENESS = 5  # a third of the supervisor's share: its steps would wait for many workers


class Channel:
    """The worker's end of the line to its supervisor."""

    def __init__(self, receiving: BinaryIO, sending: BinaryIO) -> None:
        self._receiving = receiving
        self._sending = sending
        self.tasks: SimpleQueue[Task | Quit] = SimpleQueue()
        self._decisions: SimpleQueue[Decision | Stop] = SimpleQueue()
        self.stop = Event()
        self.leaving = False
        Thread(target=self._listen, name="channel", daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Send a message, as one line."""
        self._sending.write(message.model_dump_json().encode() + b"\n")
        self._sending.flush()

    def prune(self) -> bool:
        """Wait for the decision about a trial; False when asked to stop."""
        decision = self._decisions.get()
        return isinstance(decision, Decision) and decision.prune

    def leave(self) -> None:
        """Stop after the step in hand and take no further task; safe in a signal handler."""
        self.leaving = True
        self.stop.set()
        self._decisions.put(Stop())
        self.tasks.put(Quit())

    def _listen(self) -> None:
        try:
            for line in self._receiving:
                message = TO_WORKER.validate_json(line)
                if isinstance(message, Stop):
                    self.stop.set()
                if isinstance(message, Stop | Decision):
                    self._decisions.put(message)
                else:
                    self.tasks.put(message)
        except Exception:  # a line cut off in the middle, for one
            traceback.print_exc()
        finally:
            # The supervisor is gone. Nobody waits for this epoch; the last one is on the disk.
            os._exit(1)


def work(channel: Channel) -> None:
    """Take tasks until told to quit; return early, having said why, after an exception."""
    # Imported here: torch must not load before the channel listens, or a stop would go unheard.
    import torch

    from adarelu_sweep.launching.tasks import TaskRunner, failure
    from adarelu_sweep.training.device import device_name, training_device

    device = training_device()
    channel.send(
        Ready(
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device_name(device),
            versions={
                "adarelu_sweep": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
            },
        )
    )
    runner = TaskRunner(device)
    while isinstance(task := channel.tasks.get(), Task):
        try:
            runner.run(task, channel)
        except Exception as error:
            channel.send(failure(task, error, device))
            return  # what the exception left in memory is not to be trusted


def main(open_channel: Callable[[BinaryIO, BinaryIO], Channel] = Channel) -> None:
    """Run a worker over standard input and output.

    Both are taken out of reach of everything else in the process: what prints goes to the log, what
    reads finds nothing.
    """
    search_current_folder_last()
    os.nice(_NICENESS)
    receiving = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    sending = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    die_with_parent()  # elsewhere than on Linux the end of standard input does it
    channel = open_channel(receiving, sending)
    with stop_signals(lambda _number: os._exit(1) if channel.leaving else channel.leave()):
        work(channel)
    # All is said and written. Python's own way out would take a second to unload torch, and would
    # abort on the listening thread.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
