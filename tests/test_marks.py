"""The mark of a place: whose it is, and whose supervisor has it."""

import os
import re
from pathlib import Path

import pytest

from adarelu_sweep.storing.marks import MARK, put_mark, require_mark
from adarelu_sweep.storing.objects import StorageError
from adarelu_sweep.storing.places import Place, place_at, write_whole
from tests.object_store import Fault, ObjectStore
from tests.test_storing import place

__all__ = ["place"]  # a fixture


def test_the_last_one_to_take_a_place_has_it(place: Place) -> None:
    first = put_mark(place, "uid")
    assert first.holds()
    second = put_mark(place, "uid")
    assert second.holds()
    assert not first.holds()
    assert require_mark(place, "uid") == second.mark


def test_without_its_mark_a_place_is_not_there(place: Place) -> None:
    remedy = "mount the folder" if isinstance(place, Path) else r"\(AWS_ENDPOINT_URL\)"
    with pytest.raises(StorageError, match=f"{MARK} is missing there: .*{remedy}"):
        require_mark(place, "uid")
    fence = put_mark(place, "another")
    with pytest.raises(StorageError, match="that of another study"):
        require_mark(place, "uid")
    write_whole(place / MARK, b"{}")
    with pytest.raises(StorageError, match=f"{re.escape(str(place))}: {MARK} is damaged"):
        fence.holds()


def test_a_mark_that_is_not_read_tells_nothing(reached: ObjectStore, tmp_path: Path) -> None:
    place = place_at(reached.address)
    fence = put_mark(place, "uid")
    with reached.failing(Fault("refuse")), pytest.raises(StorageError, match="refuses it"):
        fence.holds()
    (tmp_path / MARK).mkdir()
    with pytest.raises(StorageError, match=re.escape(os.strerror(21))):
        require_mark(tmp_path, "uid")


def test_to_hold_a_place_costs_little(reached: ObjectStore) -> None:
    fence = put_mark(place_at(reached.address), "uid")
    before = reached.happened.total()
    assert fence.holds()
    assert reached.happened.total() - before == 1
