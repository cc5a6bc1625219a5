"""The process that measures one device: ``python -m THIS_MODULE``, an Order on standard input.

It answers on standard output as ``messages`` says, and has the surroundings of a worker.
"""

import gc
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import ceil
from statistics import median

import torch

from adarelu_sweep._version import __version__
from adarelu_sweep.benchmarking.contestants import Lanes, PlainLoop
from adarelu_sweep.benchmarking.measured import GAIN
from adarelu_sweep.benchmarking.messages import (
    Begun,
    Doing,
    Failed,
    Group,
    LeftOut,
    Measured,
    Order,
    Said,
)
from adarelu_sweep.datasets.arrays import Arrays
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.processes import die_with_parent, search_current_folder_last
from adarelu_sweep.training.device import training_device
from adarelu_sweep.training.memory import is_out_of_memory, memory_of
from adarelu_sweep.training.settings import TrialSettings

_IMAGES = 512  # that are trained on, again and again
_MOST_BATCHES = 512  # in a turn
_LEAST_IN_PACK = 8  # batches of each network of a pack in a turn, and of an evaluation on a GPU
_WARM_UP = 6  # batches on a GPU, where the fourth is captured
_ROUNDS = (2, 7)  # at least and at most, if time decides
_PACK_ROUNDS = 3
_LARGEST_PACK = 64


def measure(order: Order, device: torch.device, say: Callable[[Said], None]) -> None:
    """Measure all groups on a device, and say what comes of it."""
    ends = time.monotonic() + order.seconds
    for number, group in enumerate(order.groups):
        training = group.arms[0].training
        torch.use_deterministic_algorithms(training.deterministic)
        torch.backends.cudnn.benchmark = not training.deterministic
        now = time.monotonic()
        share = (ends - now) / (len(order.groups) - number)
        _GroupSession(order, number, device, say, now + share).run()


class _GroupSession:
    """Arms of one network, in turns; ``ends`` is when they are to be done, if time decides."""

    def __init__(
        self,
        order: Order,
        number: int,
        device: torch.device,
        say: Callable[[Said], None],
        ends: float,
    ) -> None:
        self._order = order
        self._number = number
        self._group: Group = order.groups[number]
        self._device = device
        self._say = say
        self._ends = ends
        self._on_gpu = device.type == "cuda"
        self._warm_up = _WARM_UP if self._on_gpu else 1
        self._batches, self._arrays = self._turn()
        self._dataset = ResidentDataset(self._arrays, device)

    def run(self) -> None:
        """Measure the arms and the plain loop, then the packs."""
        measured = self._alone()
        self._let_go()
        for arm in self._group.packs:
            if arm in measured and self._order.packs != []:
                self._packs(arm)
                self._let_go()

    def _turn(self) -> tuple[int, Arrays]:
        """Return how many batches are trained in a turn, and as many images as it evaluates."""
        settings = self._group.arms[0]
        training = settings.training
        self._say(Doing(what=f"{self._group.label}: how long a step takes"))
        arrays = random_arrays(self._group.shape, _IMAGES, 1)
        with self._blamed(settings):
            lanes = Lanes(settings, ResidentDataset(arrays, self._device))
            lanes.train(self._warm_up)
            rate = lanes.train(self._warm_up)  # images/s
        fitting = self._order.turn_seconds * rate
        evaluated = 3 * fitting / training.evaluation_batch_size  # no backward pass
        least = _LEAST_IN_PACK if self._on_gpu else 1
        evaluations = min(max(ceil(evaluated), least), _MOST_BATCHES)
        images = evaluations * training.evaluation_batch_size
        return (
            min(max(ceil(fitting / training.batch_size), 1), _MOST_BATCHES),
            random_arrays(self._group.shape, _IMAGES, images),
        )

    def _alone(self) -> set[int | None]:
        """Measure the package and the plain loop, taking turns round by round.

        Returns the arms of which there is something to tell; None stands for the plain loop.
        """
        group = self._group
        contestants: dict[int | None, Lanes | PlainLoop] = {}
        for arm, settings in enumerate(group.arms):
            if lanes := self._ready(settings):
                contestants[arm] = lanes
        if plain := self._plain_loop(group.arms[group.plain]):
            contestants[None] = plain
        training: dict[int | None, list[float]] = {key: [] for key in contestants}
        evaluation: dict[int | None, list[float]] = {key: [] for key in contestants}
        for number in self._rounds():
            self._say(Doing(what=f"{group.label}: {len(contestants)} in turn, round {number + 1}"))
            in_turn = list(contestants.items())
            for key, contestant in reversed(in_turn) if number % 2 else in_turn:
                with self._blamed(group.arms[group.plain if key is None else key]):
                    training[key].append(contestant.train(self._batches))
                    if isinstance(contestant, Lanes):
                        evaluation[key].append(contestant.evaluate())
        for key in contestants:
            self._say(
                Measured(
                    group=self._number,
                    arm=group.plain if key is None else key,
                    plain=key is None,
                    training=training[key],
                    evaluation=evaluation[key],
                )
            )
        return set(contestants)

    def _rounds(self) -> Iterator[int]:
        """Count the rounds, as many as were asked for or as time allows."""
        for number in count():
            began = time.monotonic()
            yield number
            now = time.monotonic()
            done = number + 1
            if self._order.rounds is not None:
                over = done >= self._order.rounds
            else:
                least, most = _ROUNDS
                in_time = now + (now - began) < self._ends
                over = done >= most or (done >= least and not in_time)
            if over:
                return

    def _packs(self, arm: int) -> None:
        """Measure packs of growing size, each in turn with the next smaller one."""
        settings = self._group.arms[arm]
        sizes = self._order.packs
        growing = (2**power for power in count(1)) if sizes is None else iter(sorted(sizes))
        lanes = self._ready(settings)
        smaller = 1
        for size in growing:
            if lanes is None or size > _LARGEST_PACK:
                return
            what = f"{self._group.label}, {settings.activation.label}: a pack of {size}"
            self._say(Doing(what=what))
            before: list[float] = []
            training: list[float] = []
            evaluation: list[float] = []
            with self._blamed(settings), self._room_for(what) as room:
                lanes.grow(size)
                lanes.train(self._warm_up, size)
                lanes.evaluate(size)
                for _ in range(self._order.rounds or _PACK_ROUNDS):
                    before.append(lanes.train(self._batches_of(smaller), smaller))
                    training.append(lanes.train(self._batches_of(size), size))
                    evaluation.append(lanes.evaluate(size))
            if not room():
                return
            self._say(
                Measured(
                    group=self._number,
                    arm=arm,
                    pack=size,
                    training=training,
                    evaluation=evaluation,
                    smaller_pack=before,
                )
            )
            gains = [ours / theirs for ours, theirs in zip(training, before, strict=True)]
            if sizes is None and median(gains) <= GAIN:
                return
            smaller = size

    def _batches_of(self, size: int) -> int:
        """Return how many batches each network of a pack has in a turn."""
        return max(self._batches // size, min(self._batches, _LEAST_IN_PACK))

    def _ready(self, settings: TrialSettings) -> Lanes | None:
        """Return an arm's network, warm; None where there is no memory for it."""
        what = f"{self._group.label}, {settings.activation.label}"
        self._say(Doing(what=what))
        with self._blamed(settings), self._room_for(what):
            lanes = Lanes(settings, self._dataset)
            lanes.train(self._warm_up)
            lanes.evaluate()
            return lanes
        return None

    def _plain_loop(self, settings: TrialSettings) -> PlainLoop | None:
        what = f"{self._group.label}: the plain loop"
        self._say(Doing(what=what))
        bf16 = settings.training.precision == "bf16"
        loaders = self._order.loaders
        with self._blamed(settings), self._room_for(what):
            plain = PlainLoop(settings, self._arrays, self._device, loaders, bf16=bf16)
            plain.train(1)
            return plain
        return None

    @contextmanager
    def _room_for(self, what: str) -> Iterator[Callable[[], bool]]:
        """Say what is left out where the memory runs out; yields what tells whether it did not."""
        enough = True
        try:
            yield lambda: enough
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            enough = False
            self._say(LeftOut(what=f"{what}: out of memory ({memory_of(self._device)})"))
        if not enough:
            self._let_go()

    @contextmanager
    def _blamed(self, settings: TrialSettings) -> Iterator[None]:
        """Name the arm in what its code raises."""
        try:
            yield
        except Exception as error:
            said = " ".join("".join(traceback.format_exception_only(error)).split())
            arm = f"{settings.network.label} with {settings.activation.label}"
            raise RuntimeError(f"{arm}: {said}") from error

    def _let_go(self) -> None:
        """Give back the memory of what nobody holds any more."""
        gc.collect()
        if self._on_gpu:
            torch.cuda.empty_cache()


def main() -> None:
    """Measure what stands on standard input."""
    search_current_folder_last()
    die_with_parent()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a user's part prints is no answer

    def say(message: Said) -> None:
        answer.write(message.model_dump_json().encode() + b"\n")
        answer.flush()

    order = Order.model_validate_json(sys.stdin.buffer.read())
    try:
        torch.set_num_threads(order.threads)
        device = training_device()
        versions = {
            "adarelu_sweep": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        }
        say(Begun(versions=versions))
        measure(order, device, say)
    except Exception as error:
        traceback.print_exc()
        said = str(error) if isinstance(error, RuntimeError) else repr(error)
        say(Failed(error=" ".join(said.split())))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
