"""The contract of a place, over every kind of it; and what is an object store's own."""

import threading
from pathlib import Path

import pytest

from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.secrets import concealed
from adarelu_sweep.storing import objects
from adarelu_sweep.storing.objects import ObjectPath, StorageError
from adarelu_sweep.storing.places import (
    Place,
    credentials_for,
    discard,
    discard_aside,
    make_below,
    move,
    on_disk,
    place_at,
    remove_all,
    require_usable,
    state_of,
    write_whole,
)
from adarelu_sweep.training.history import CHECKPOINT, EpochRecord, History
from adarelu_sweep.training.snapshot import Snapshot
from tests.object_store import SECRET, Fault, ObjectStore
from tests.waiting import wait_until

WRITES = ("PUT", "POST")


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        folder = place_at(str(tmp_path / "trial"))
        folder.mkdir(parents=True)
        return folder
    return place_at(request.getfixturevalue("reached").address) / "trial"


def test_what_was_written_is_read(place: Place) -> None:
    file = place / "file"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_whole(file, b"one ", memoryview(b"two"))
    assert file.exists()
    assert file.read_bytes() == b"one two"
    assert file.read_text(encoding="utf-8") == "one two"
    write_whole(file, b"")
    assert file.read_bytes() == b""


def test_one_state_is_read_from_here_to_there(place: Place) -> None:
    content = bytes(range(256)) * 3000
    write_whole(place / "file", content)
    with (place / "file").open("rb") as file:
        assert file.seek(0, 2) == len(content)
        assert file.seek(0) == 0
        assert file.read(8) == content[:8]
        assert file.read() == content[8:]


def test_the_file_before_is_kept(place: Place) -> None:
    for content in (b"first", b"second", b"third"):
        write_whole(place / "file", content, before="earlier")
    assert (place / "file").read_bytes() == b"third"
    assert (place / "earlier").read_bytes() == b"second"


def test_another_file_has_another_state(place: Place) -> None:
    states = [state_of(place / "file")]
    for content in (b"one", b"two", b"longer"):
        write_whole(place / "file", content)
        states.append(state_of(place / "file"))
        assert state_of(place / "file") == states[-1]
    assert states[0] is state_of(place) is None
    assert len(set(states)) == 4


def test_files_are_found_by_the_ends_of_their_names(place: Place) -> None:
    for file in ("one.npz", "two.npz", "three.txt"):
        write_whole(place / file, b"content")
    deeper = place / "deeper"
    deeper.mkdir()
    write_whole(deeper / "four.npz", b"content")
    assert sorted(file.name for file in place.glob("*.npz")) == ["one.npz", "two.npz"]
    assert not list((place / "nothing").glob("*.npz"))


def test_a_file_is_moved_and_discarded(place: Place) -> None:
    write_whole(place / "file", b"content")
    write_whole(place / "other", b"in the way")
    move(place / "file", "other")
    assert not (place / "file").exists()
    assert (place / "other").read_bytes() == b"content"
    discard_aside(place / "other")
    assert (place / "other").exists()
    for _ in range(2):
        discard(place / "other")
        assert not (place / "other").exists()


def test_a_file_can_be_had_on_disk(place: Place) -> None:
    write_whole(place / "model", b"weights")
    with on_disk(place / "model") as path:
        assert (path.name, path.read_bytes()) == ("model", b"weights")
    assert (place / "model").exists()


def test_all_below_a_place_is_removed_and_nothing_beside_it(place: Place) -> None:
    beside = place.with_name("trial-2")
    for file in (place / "one", place / "deeper" / "two", beside / "three"):
        if isinstance(file, Path):
            file.parent.mkdir(exist_ok=True)
        write_whole(file, b"content")
    for _ in range(2):
        remove_all(place)
        assert not (place / "one").exists()
        assert not (place / "deeper" / "two").exists()
    assert (beside / "three").exists()


def test_one_file_can_be_left(place: Place) -> None:
    for file in (place / "kept", place / "one", place / "deeper" / "kept"):
        if isinstance(file, Path):
            file.parent.mkdir(exist_ok=True)
        write_whole(file, b"content")
    for _ in range(2):
        remove_all(place, but="kept")
        assert (place / "kept").exists()
        assert not (place / "one").exists()
        assert not (place / "deeper" / "kept").exists()


def test_what_is_gone_already_counts_as_removed(reached: ObjectStore) -> None:
    """Somebody else was quicker; not every store is silent of it, as S3 itself is."""
    place = place_at(reached.address) / "trial"
    write_whole(place / "file", b"content")
    with reached.failing(Fault("missing", methods=("DELETE",))):
        discard(place / "file")
        remove_all(place)
    assert reached.happened["DELETE", "missing"] == 2
    with pytest.raises(StorageError, match="no such bucket"):
        remove_all(place_at("s3://no-such-bucket/some/where"))


def test_a_folder_is_not_made_for_the_place_that_it_is_in(tmp_path: Path) -> None:
    """Whose file system may not be mounted."""
    place = tmp_path / "place"
    with pytest.raises(FileNotFoundError):
        make_below(place, place / "search-0" / "00001")
    with pytest.raises(UserError, match="No such file or directory"):
        require_usable(place)
    assert not place.exists()
    require_usable(place, new=True)
    for _ in range(2):
        make_below(place, place / "search-0" / "00001")
    assert (place / "search-0" / "00001").is_dir()


def test_an_account_that_is_not_told_what_is_missing_is_refused(reached: ObjectStore) -> None:
    """Its trials would wait for ever for what may be there."""
    without_the_right = Fault("refuse", methods=("GET", "HEAD"), absent=True)
    with (
        reached.failing(without_the_right),
        pytest.raises(UserError, match=r"may not list the bucket \(s3:ListBucket\)") as raised,
    ):
        require_usable(place_at(reached.address))
    assert "\n" not in str(raised.value)


def test_a_usable_place_is_left_as_it_was(place: Place, reached: ObjectStore) -> None:
    require_usable(place)
    left = list(place.iterdir()) if isinstance(place, Path) else list(reached.contents())
    assert left == []


def test_a_history_is_read_without_the_weights(reached: ObjectStore) -> None:
    import torch

    record = EpochRecord(epoch=1, timestamp=1, metrics={"test/accuracy": 50.0})
    history = History(epochs=[record])
    snapshot = Snapshot({"weights": torch.zeros(2_000_000)})
    place = place_at(reached.address) / "00001"
    content = snapshot.packed({"history": history.model_dump_json()})
    write_whole(place / CHECKPOINT, *content)
    fetched = reached.proxy.answered
    assert History.read(place) == history
    assert reached.proxy.answered - fetched < 500_000 < 8_000_000 < len(b"".join(content))


SLOW = pytest.mark.long  # the clients wait longer and longer before they try again


@pytest.mark.parametrize(
    "fate",
    [
        "error",
        "cut request",
        *(pytest.param(fate, marks=SLOW) for fate in ("busy", "hang", "cut answer")),
    ],
)
def test_trouble_that_passes_is_not_noticed(reached: ObjectStore, fate: str) -> None:
    place = place_at(reached.address) / "trial"
    write_whole(place / "file", b"old " * 1000)
    with reached.failing(Fault(fate, next=1, methods=WRITES)):
        write_whole(place / "file", b"new " * 1000, before="earlier")
    with reached.failing(Fault(fate, next=1, methods=("GET",))):
        assert (place / "file").read_bytes() == b"new " * 1000
    assert reached.happened["PUT", fate] == reached.happened["GET", fate] == 1
    assert (place / "earlier").read_bytes() == b"old " * 1000


@pytest.mark.parametrize(
    ("fate", "size"),
    [
        ("cut request", 1000),
        ("error", 1000),
        pytest.param("hang", 1000, marks=SLOW),
        *(
            pytest.param(fate, 3 * objects._PART, marks=SLOW)
            for fate in ("cut request", "error", "busy")
        ),
    ],
)
def test_what_fails_leaves_the_old(reached: ObjectStore, fate: str, size: int) -> None:
    place = place_at(reached.address) / "trial"
    write_whole(place / "file", b"old")
    uploads = Fault(fate, methods=("PUT",), keys=r"file(\?|$)")
    with reached.failing(uploads), pytest.raises(StorageError, match="does not answer") as raised:
        write_whole(place / "file", bytes(size))
    assert raised.value.errno is None
    assert reached.happened["PUT", fate] >= 1
    assert reached.contents() == {"some/where/trial/file": b"old"}
    assert reached.half_uploads() == []
    write_whole(place / "file", bytes(size))
    assert (place / "file").read_bytes() == bytes(size)


def test_a_store_that_is_away_is_not_an_empty_one(reached: ObjectStore) -> None:
    place = place_at(reached.address) / "trial"
    with reached.away():
        for read in (place.exists, place.read_bytes, lambda: History.read(place)):
            with pytest.raises(StorageError, match="does not answer"):
                read()
        with pytest.raises(UserError, match="no checkpoints can be kept there"):
            require_usable(place)
    nowhere = place_at("s3://no-such-bucket/some/where") / "trial"
    for read in (nowhere.exists, nowhere.read_bytes, lambda: History.read(nowhere)):
        with pytest.raises(StorageError, match="no such bucket"):
            read()
    with pytest.raises(UserError, match="no such bucket"):
        require_usable(nowhere)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://", "http://localhost:port"])
def test_an_endpoint_that_is_no_address_is_one_line(
    reached: ObjectStore, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    place = place_at(reached.address) / "trial"
    with pytest.raises(StorageError, match=f"[^\n]*{endpoint}[^\n]*$"):
        place.read_bytes()
    with pytest.raises(UserError, match="no checkpoints can be kept there"):
        require_usable(place)


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(reached: ObjectStore) -> None:
    file = place_at(reached.address) / "file"
    old, new = b"o" * 1_000_000, b"n" * 1_000_000
    write_whole(file, old)
    with pytest.raises(StorageError), file.open() as opened:  # noqa: PT012
        assert opened.read(8) == old[:8]
        write_whole(file, new)
        assert opened.read() in (old[8:], None)
    assert file.read_bytes() == new


def test_one_client_serves_several_threads(reached: ObjectStore) -> None:
    place = place_at(reached.address)
    contents = {f"file-{index}": bytes([index]) * 1000 for index in range(8)}
    threads = [
        threading.Thread(target=write_whole, args=(place / name, content))
        for name, content in contents.items()
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the end of all threads")
    assert {name: (place / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize(
    "given",
    [
        "s3://",
        "s3://Bucket/x",
        "s3://user:secret@bucket/x",
        "s3://bucket/x?versionId=1",
        "gs://bucket/x",
        "file:///tmp",
        "checkpoints",
        "./here",
        "~nobody-of-that-name/x",
        "",
    ],
)
def test_what_is_no_place_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="give s3://BUCKET/PREFIX, or the whole path of a folder"):
        place_at(given)


@pytest.mark.parametrize(
    "given", ["s3://user:secret@bucket/x", "gs://user:secret@bucket", "./s3://user:secret@bucket"]
)
def test_what_is_refused_shows_no_password(given: str) -> None:
    with pytest.raises(ValueError, match="user@bucket") as refused:
        place_at(given)
    assert "secret" not in str(refused.value)


def test_a_place_has_an_address(tmp_path: Path) -> None:
    for given in ("s3://bucket/some/where", "s3://bucket", str(tmp_path)):
        assert place_at(str(place_at(given) / "x")) == place_at(given) / "x"
    assert place_at("s3://bucket/x/") == place_at("s3://bucket/x")
    assert place_at("~/x") == Path.home() / "x"
    assert isinstance(place_at("s3://bucket"), ObjectPath)


def test_only_who_needs_a_store_gets_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "FSSPEC_S3_SECRET")  # of botocore, and of fsspec
    for name in names:
        monkeypatch.setenv(name, SECRET)
    slot = Slot(0, 1)
    assert set(names) <= environment(slot, credentials_for("s3://bucket/x")).keys()
    both = (None, "/a/folder", "s3://bucket/x")
    assert set(names) <= environment(slot, credentials_for(*both)).keys()
    for place in ("/a/folder", None):
        assert SECRET not in environment(slot, credentials_for(place)).values()
    assert SECRET not in concealed(f"rejected: {SECRET}")
