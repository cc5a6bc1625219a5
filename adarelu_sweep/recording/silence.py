"""Giving up a database server that hangs: connected, acknowledged by its kernel, and silent.

What was asked of it fails then as on a lost connection, and whoever asked goes on as after one.
"""

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.waiting import Ready, Wait
from sqlalchemy import make_url

PATIENCE = 90.0
"""Seconds without a byte from the server.

A statement that works is as silent as one that hangs: it is far more than any of ours takes on a
large book. It is also how long a request to stop may have to wait for the statement in hand.
"""


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection whose server has to say something now and then while it is waited for."""

    def wait(self, gen: PQGen[RV], *how: Any, **named: Any) -> RV:
        """Carry out what was asked; close, and raise OperationalError, when it is silent."""
        return super().wait(self._watched(gen), *how, **named)

    def _watched(self, gen: PQGen[RV]) -> Generator[Wait, Ready | int, RV]:
        """Pass on what psycopg waits for, and what comes of it: many times a second, if nothing."""
        heard = time.monotonic()
        try:
            awaited = next(gen)
            while True:
                ready = yield awaited
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > PATIENCE:
                    self.close()
                    raise psycopg.OperationalError(f"it has been silent for {PATIENCE:g} s")
                awaited = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result


def connector(address: str, arguments: dict[str, Any]) -> Callable[[], ImpatientConnection]:
    """Return what makes connections to an address, for SQLAlchemy to call."""
    url = make_url(address)
    dialect: Any = url.get_dialect()
    given, named = dialect(dbapi=psycopg).create_connect_args(url)
    return partial(ImpatientConnection.connect, *given, **named | arguments)
