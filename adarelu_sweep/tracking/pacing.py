"""Which trial is delivered next, and when: those of a slot that still run take turns.

Whoever watches a run needs no more than a point every few seconds, and a server that many slots
share has better to do. What begins or ends is not held back.
"""

import time
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from adarelu_sweep.tracking.snapshot import TrialSnapshot

PACE = 2.0  # seconds at least between two calls for a slot, where no trial has ended


@dataclass
class _Waiting:
    snapshot: TrialSnapshot
    slot: int | None
    at_once: bool
    turn: int


class Line:
    """The trials that wait to be delivered, each in its newest state. Not for several threads.

    One that is in hand waits until it is put down, so that its states arrive in their order.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._in_hand: set[str] = set()
        self._turns = count()
        # When, whose turn, and which trial. What was replaced since then is passed over.
        self._due: list[tuple[float, int, str]] = []
        self._open: dict[int, float] = {}  # when a slot may have its next call

    def __bool__(self) -> bool:
        """Return whether anything waits or is in hand."""
        return bool(self._waiting or self._in_hand)

    def put(self, snapshot: TrialSnapshot, slot: int | None = None, at_once: bool = True) -> None:
        """Have a trial delivered; this state replaces the one that waits.

        ``slot`` is where it runs, unless it has ended. What is to be delivered at once stays so
        when it is replaced.
        """
        key, before = snapshot.key, self._waiting.get(snapshot.key)
        if before is not None and (before.at_once or not at_once):
            before.snapshot, before.slot = snapshot, slot
            return
        self._waiting[key] = _Waiting(snapshot, slot, at_once, next(self._turns))
        if key not in self._in_hand:
            self._line_up(key)

    def take(self, hurry: bool = False) -> TrialSnapshot | None:
        """Take the next trial in hand, None if none is due; in a hurry, all are."""
        now = time.monotonic()
        while self._due and (hurry or self._due[0][0] <= now):
            _, turn, key = heappop(self._due)
            waiting = self._waiting.get(key)
            if waiting is None or waiting.turn != turn:
                continue
            # Another of its slot may have had a call meanwhile.
            if not hurry and self._when(waiting, now) > now:
                self._line_up(key)
                continue
            if waiting.slot is not None:
                self._open[waiting.slot] = now + PACE
            del self._waiting[key]
            self._in_hand.add(key)
            return waiting.snapshot
        return None

    def put_down(self, snapshot: TrialSnapshot, arrived: bool) -> None:
        """Let a trial go that was in hand; what did not arrive is due again.

        In its newest state, and at once, as every repetition.
        """
        key = snapshot.key
        self._in_hand.discard(key)
        if not arrived:
            newer = self._waiting.pop(key, None)
            self.put(newer.snapshot if newer else snapshot)
        elif key in self._waiting:
            self._line_up(key)

    def seconds(self) -> float | None:
        """Return how long it takes until something is due, None where nothing is in line."""
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _line_up(self, key: str) -> None:
        waiting = self._waiting[key]
        heappush(self._due, (self._when(waiting, time.monotonic()), waiting.turn, key))

    def _when(self, waiting: _Waiting, now: float) -> float:
        """Return when a trial may be delivered, at the earliest."""
        if waiting.at_once or waiting.slot is None:
            return now
        return max(now, self._open.get(waiting.slot, now))
