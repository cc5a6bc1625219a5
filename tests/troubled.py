"""Activations of a user's own, all of them ReLU, that bring their worker into trouble.

Each does so where a worker trains with it, not in the rehearsal before, as long as there is no file
of its name in the folder ``TROUBLE``. What troubles once makes that file itself.
"""

import os
import sys
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

_FAR_TOO_MUCH = 2**52  # bytes


_IN_A_WORKER = "adarelu_sweep.launching.worker" in sys.orig_argv


class _Troubled(nn.Module):
    """Makes its trouble in the second epoch, so that there is a checkpoint to go on from."""

    once = True

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _IN_A_WORKER:
            self._calls += 1
            if self._calls > 10 and not self.is_over():  # an epoch has 8 steps
                if self.once:
                    self._file().touch()
                self.trouble()
        return torch.relu(x)

    def _file(self) -> Path:
        return Path(os.environ["TROUBLE"]) / type(self).__name__

    def is_over(self) -> bool:
        return self._file().exists()

    def trouble(self) -> None:
        raise NotImplementedError


class Crashing(_Troubled):
    def trouble(self) -> None:
        os._exit(3)


class Exiting(_Troubled):
    once = False

    def trouble(self) -> None:
        sys.exit()


class ExitingAtOnce(_Troubled):
    once = False

    def trouble(self) -> None:
        os._exit(0)


class Hanging(_Troubled):
    def trouble(self) -> None:
        time.sleep(1000)


class Raising(_Troubled):
    once = False

    def trouble(self) -> None:
        raise ArithmeticError("this does not add up")


class Hungry(_Troubled):
    """Asks for more memory than there is, once; from then on it does not bear company."""

    def forward(self, x: Tensor) -> Tensor:
        if _IN_A_WORKER and self.is_over():
            siblings = psutil.Process(os.getppid()).children()
            workers = [p for p in siblings if "adarelu_sweep.launching.worker" in p.cmdline()]
            assert len(workers) == 1
        return super().forward(x)

    def trouble(self) -> None:
        torch.empty(_FAR_TOO_MUCH, dtype=torch.uint8)


class Insatiable(_Troubled):
    once = False

    def trouble(self) -> None:
        torch.empty(_FAR_TOO_MUCH, dtype=torch.uint8)
