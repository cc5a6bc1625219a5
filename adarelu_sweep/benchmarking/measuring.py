"""The process that measures one device: ``python -m THIS_MODULE``, an Order on standard input.

It answers on standard output as ``messages`` says, and has the surroundings of a worker.
"""

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import ceil, inf
from statistics import median
from typing import Final, Literal

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
from adarelu_sweep.datasets.random_images import random_arrays
from adarelu_sweep.datasets.resident import ResidentDataset
from adarelu_sweep.processes import die_with_parent, search_current_folder_last
from adarelu_sweep.training.device import training_device
from adarelu_sweep.training.memory import give_back, is_out_of_memory, memory_of
from adarelu_sweep.training.settings import TrialSettings

_IMAGES = 512  # that are trained on, again and again
_MOST_BATCHES = 512  # in a turn
_LEAST_IN_PACK = 8  # batches of each network of a pack in a turn
_LEAST_EVALUATED = 32  # the same of an evaluation on a GPU, where the first is slow: not captured
_WARM_UP = 6  # batches on a GPU, where the fourth is captured
_ROUNDS = (2, 7)  # at least and at most, if time decides
_PACK_ROUNDS = 3
_LARGEST_PACK = 64
_NO_TIME = "the time was over"
_ALONE = 0.5  # of a group's time, more rounds than two end, if there are packs after that
_EVALUATION = 1 / 3  # of the time of a training step on as many images: no backward pass
_PLAIN: Final = "the plain loop"
_FP32: Final = "in fp32"
_Key = int | Literal["the plain loop", "in fp32"]
"""What takes turns: the number of an arm, or what the reference is compared with."""


def measure(order: Order, device: torch.device, say: Callable[[Said], None]) -> None:
    """Measure all groups on a device, and say what comes of it.

    Each has an equal share of the time that is left when it begins. The first is measured however
    little that is.
    """
    ends = time.monotonic() + (inf if order.seconds is None else order.seconds)
    for number, group in enumerate(order.groups):
        training = group.arms[0].training
        torch.use_deterministic_algorithms(training.deterministic)
        torch.backends.cudnn.benchmark = not training.deterministic
        now = time.monotonic()
        if number and now >= ends:
            say(LeftOut(what=f"{group.label}: {_NO_TIME}"))
            continue
        share = (ends - now) / (len(order.groups) - number)
        _GroupSession(order, number, device, say, now + share).run()


class _GroupSession:
    """Arms of one network, in turns, and one of them in packs; ``ends`` is when to be done."""

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
        self._lane_takes = 0.0  # seconds, from its building to its first turn: the last that was
        began = time.monotonic()
        self._batches, self._evaluated, self._turn_takes = self._turn()
        evaluation_batch = self._group.arms[0].training.evaluation_batch_size
        images = self._evaluated * evaluation_batch
        self._arrays = random_arrays(self._group.shape, _IMAGES, images)
        self._dataset = ResidentDataset(self._arrays, device)
        part = 1 if order.packs == [] else _ALONE
        self._ends_alone = began + part * (ends - began)

    def run(self) -> None:
        """Measure the arms and the plain loop, then the packs."""
        lanes = self._alone()
        give_back(self._device)
        if lanes and self._order.packs != []:
            self._packs(lanes)
            del lanes
            give_back(self._device)

    def _turn(self) -> tuple[int, int, float]:
        """Return how many batches are trained and evaluated in a turn, and how long that takes."""
        settings = self._group.arms[self._group.reference]
        training = settings.training
        self._say(Doing(what=f"{self._group.label}: how long a step takes"))
        arrays = random_arrays(self._group.shape, _IMAGES, 1)
        with self._blamed(settings):
            lanes = Lanes(settings, ResidentDataset(arrays, self._device))
            lanes.train(self._warm_up)
            rate = lanes.train(self._warm_up)  # images/s
        fitting = self._order.turn_seconds * rate
        fitting_evaluated = fitting / _EVALUATION / training.evaluation_batch_size
        least = _LEAST_EVALUATED if self._on_gpu else 1
        evaluated = min(max(ceil(fitting_evaluated), least), _MOST_BATCHES)
        batches = min(max(ceil(fitting / training.batch_size), 1), _MOST_BATCHES)
        images = batches * training.batch_size
        images_evaluated = evaluated * training.evaluation_batch_size
        return batches, evaluated, (images + _EVALUATION * images_evaluated) / rate

    def _alone(self) -> Lanes | None:
        """Measure the package and the plain loop, taking turns round by round.

        Returns the network of the reference, or None if there is no memory for it.
        """
        group = self._group
        contestants = self._contestants()
        training: dict[_Key, list[float]] = {key: [] for key in contestants}
        evaluation: dict[_Key, list[float]] = {key: [] for key in contestants}
        least, most = _ROUNDS
        for number in self._rounds(least, most, self._ends_alone):
            self._say(Doing(what=f"{group.label}: {len(contestants)} in turn, round {number + 1}"))
            in_turn = list(contestants.items())
            for key, contestant in reversed(in_turn) if number % 2 else in_turn:
                with self._blamed(self._settings(key)):
                    training[key].append(contestant.train(self._batches))
                    if isinstance(contestant, Lanes):
                        evaluation[key].append(contestant.evaluate(self._evaluated))
        for key in contestants:
            self._say(
                Measured(
                    group=self._number,
                    arm=key if isinstance(key, int) else group.reference,
                    plain=key == _PLAIN,
                    in_fp32=key == _FP32,
                    training=training[key],
                    evaluation=evaluation[key],
                )
            )
        reference = contestants.get(group.reference)
        return reference if isinstance(reference, Lanes) else None

    def _contestants(self) -> dict[_Key, Lanes | PlainLoop]:
        """Return the arms and what the reference is compared with, as memory and time allow.

        The reference and the latter come first. There is time for another if all can then still
        take turns twice: an arm is worth more than more rounds and packs, as without it nothing is
        known of how long a study takes.
        """
        group = self._group
        reference, least = group.reference, _ROUNDS[0]
        others = [arm for arm in range(len(group.arms)) if arm != reference]
        keys: list[_Key] = [reference, *self._compared(), *others]
        takes = 0.0
        ready: dict[_Key, Lanes | PlainLoop] = {}
        for key in keys:
            turns = self._turns(least, len(ready) + 1)
            what = self._what(key)
            if key != reference and not self._in_time(self._lane_takes + turns, self._ends):
                self._say(LeftOut(what=f"{what}: {_NO_TIME}"))
                continue
            settings = self._settings(key)
            plain = key == _PLAIN
            contestant = self._plain_loop(settings) if plain else self._ready(settings, what)
            if contestant:
                ready[key] = contestant
            if key == reference:
                takes = self._lane_takes
        self._lane_takes = takes  # the packs are of the reference
        arms: dict[_Key, Lanes | PlainLoop] = {
            key: ready[key] for key in range(len(group.arms)) if key in ready
        }
        return arms | ready  # in the order of the study, what the reference is compared with last

    def _compared(self) -> Iterator[_Key]:
        """Yield what the reference is compared with: on a CPU, where bf16 may be slow, fp32."""
        if self._group.in_fp32 and not self._on_gpu:
            yield _FP32
        yield _PLAIN

    def _settings(self, key: _Key) -> TrialSettings:
        """Return what a contestant is trained with."""
        if isinstance(key, int):
            return self._group.arms[key]
        reference = self._group.arms[self._group.reference]
        return (self._group.in_fp32 or reference) if key == _FP32 else reference

    def _what(self, key: _Key) -> str:
        """Return what a contestant is called."""
        if key == _PLAIN:
            return f"{self._group.label}: {_PLAIN}"
        label = f"{self._group.label}, {self._settings(key).activation.label}"
        return f"{label}: the same in fp32" if key == _FP32 else label

    def _turns(self, rounds: int, contestants: int) -> float:
        """Return about how long it takes until each has had so many turns."""
        return min(rounds, self._order.rounds or rounds) * contestants * self._turn_takes

    def _in_time(self, takes: float, until: float) -> bool:
        return time.monotonic() + takes <= until

    def _rounds(self, least: int, most: int, until: float) -> Iterator[int]:
        """Count the rounds, as many as were asked for and as time allows."""
        most = self._order.rounds or most
        for done in count(1):
            began = time.monotonic()
            yield done - 1
            took = time.monotonic() - began
            if done >= most or (done >= least and not self._in_time(took, until)):
                return

    def _packs(self, lanes: Lanes) -> None:
        """Measure packs of growing size, each in turn with the next smaller one."""
        arm = self._group.reference
        settings = self._group.arms[arm]
        sizes = self._order.packs
        growing = (2**power for power in count(1)) if sizes is None else iter(sorted(sizes))
        smaller = 1
        for size in growing:
            if size > _LARGEST_PACK:
                return
            what = f"{self._group.label}, {settings.activation.label}: a pack of {size}"
            takes = (size - smaller) * self._lane_takes + self._turns(_PACK_ROUNDS, 2)
            if not self._in_time(takes, self._ends):
                self._say(LeftOut(what=f"{what}: {_NO_TIME}"))
                if sizes is None:
                    return
                continue
            self._say(Doing(what=what))
            before: list[float] = []
            training: list[float] = []
            evaluation: list[float] = []
            with self._blamed(settings), self._room_for(what) as room:
                began = time.monotonic()
                lanes.grow(size)
                lanes.train(self._warm_up, size)
                lanes.evaluate(min(self._warm_up, self._evaluated), size)
                self._lane_takes = (time.monotonic() - began) / (size - smaller)
                for _ in self._rounds(1, _PACK_ROUNDS, self._ends):
                    before.append(lanes.train(self._batches_of(smaller), smaller))
                    training.append(lanes.train(self._batches_of(size), size))
                    evaluation.append(lanes.evaluate(self._evaluated_of(size), size))
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

    def _evaluated_of(self, size: int) -> int:
        """Return how many batches of an evaluation each network of a pack has in a turn."""
        return max(self._evaluated // size, min(self._evaluated, _LEAST_EVALUATED))

    def _ready(self, settings: TrialSettings, what: str) -> Lanes | None:
        """Return an arm's network, warm; None where there is no memory for it."""
        self._say(Doing(what=what))
        with self._blamed(settings), self._room_for(what):
            began = time.monotonic()
            lanes = Lanes(settings, self._dataset)
            lanes.train(self._warm_up)
            lanes.evaluate(min(self._warm_up, self._evaluated))
            self._lane_takes = time.monotonic() - began
            return lanes
        return None

    def _plain_loop(self, settings: TrialSettings) -> PlainLoop | None:
        what = self._what(_PLAIN)
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
            give_back(self._device)

    @contextmanager
    def _blamed(self, settings: TrialSettings) -> Iterator[None]:
        """Name the arm in what its code raises."""
        try:
            yield
        except Exception as error:
            said = " ".join("".join(traceback.format_exception_only(error)).split())
            arm = f"{settings.network.label} with {settings.activation.label}"
            raise RuntimeError(f"{arm}: {said}") from error


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
