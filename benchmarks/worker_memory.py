"""What a CPU worker's memory is made of: how much it holds after each thing that it does.

The study of ``starting``, trained in this process by the objects that a worker trains it with.
What the C library keeps of memory that is free again is told apart at the end, by having it given
back to the system.
"""

import argparse
import ctypes
import os
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401  # the digits come with it
import torch
import torch._dynamo  # torch's optimizers import it

from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.training.evaluation import Evaluator
from adarelu_sweep.training.lane import Lane
from adarelu_sweep.training.loop import Trial
from benchmarks.machine import machine
from benchmarks.starting import STUDY, own_memory


class Account:
    """Rows of a table: what has been done, and the MB that the process holds then."""

    def __init__(self) -> None:
        self._first = self._before = own_memory(os.getpid())
        print("| after | MB held | more than before | more than imports |")
        print("| --- | --- | --- | --- |")
        self.enter("imports")

    def enter(self, what: str) -> None:
        """Print a row."""
        now = own_memory(os.getpid())
        print(f"| {what} | {now:.0f} | {now - self._before:+.0f} | {now - self._first:+.0f} |")
        self._before = now


def main() -> None:
    """Train some epochs, and print a Markdown table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    print(f"{date.today()}; {machine(torch.device('cpu'))}\n")
    account = Account()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.toml"
        path.write_text(STUDY.replace("DATASET", "digits"))
        (settings,) = (cell.settings for cell in cells(read_study(path)))
        data = settings.data
        dataset = ResidentDataset.load(
            settings.dataset, path.parent, torch.device("cpu"), data.train_limit, data.test_limit
        )
        account.enter("the data set")
        trial = Trial(settings, dataset, path.parent)
        account.enter("the network, not trained")
        entered(account, Lane, "_update", "step of training")
        entered(account, Evaluator, "_add", "batch of evaluation")
        for record in trial.train(lambda: False, one_by_one=True):
            account.enter(f"epoch {record.epoch}, its checkpoint written")
            if record.epoch == options.epochs:
                break
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        account.enter("what was free is given back")
        state = (*trial.network.state_dict().values(), *trial.network.parameters())
        print(f"\nWeights, buffers and gradients by their sizes: {megabytes(state):.1f} MB")


def entered(account: Account, owner: type, method: str, what: str) -> None:
    """Have the first three calls of a method make an entry each."""
    original: Callable[..., None] = getattr(owner, method)
    count = 0

    def counting(*arguments: Any) -> None:
        nonlocal count
        original(*arguments)
        count += 1
        if count <= 3:
            account.enter(f"{what} {count}")

    setattr(owner, method, counting)


def megabytes(tensors: tuple[torch.Tensor, ...]) -> float:
    """Return the size of tensors, in MB (10^6 bytes)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
