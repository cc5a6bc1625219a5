"""An S3 API of the tests' own: moto's server on loopback, behind a proxy that misbehaves.

The proxy makes the troubles of a network and of a busy service; what is stored is moto's affair. A
real S3 never stores an upload that was cut, and neither does moto: ``test_object_store`` looks.
"""

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from random import Random, randrange
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote
from urllib.request import urlopen

import pytest

from adarelu_sweep.storing import objects
from tests.proxy import Fate, Proxy
from tests.waiting import wait_until

SECRET = "s3-secret/of+the-tests"
"""Of an account that exists nowhere; no log, run or message may have it."""

_XML = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>out of order</Message></Error>"
_SAID: dict[Fate, bytes] = {
    "error": _XML % b"InternalError",
    "busy": _XML % b"SlowDown",
    "refuse": _XML % b"AccessDenied",
    "missing": _XML % b"NoSuchKey",
}


@dataclass
class Fault:
    """What becomes of some requests.

    Args:
        fate: What: ``error`` (500), ``busy`` (503 SlowDown), ``refuse`` (403), ``missing`` (404),
            ``hang``, ``cut request``, ``cut answer``, ``slow``.
        share: Of how many of them, at random.
        next: Of how many at most, from now on; None for no end.
        methods: Of requests with these methods; none for all.
        keys: Of requests for keys in which this pattern is found.
        absent: Of requests for keys that are not there.
    """

    fate: Fate
    share: float = 1.0
    next: int | None = None
    methods: Sequence[str] = ()
    keys: str = ""
    absent: bool = False

    def strikes(self, method: str, key: str, draw: Random) -> bool:
        """Return whether it befalls a request, which then is one of the next."""
        if self.next == 0 or (self.methods and method not in self.methods):
            return False
        if not re.search(self.keys, key) or draw.random() >= self.share:
            return False
        if self.next is not None:
            self.next -= 1
        return True


class ObjectStore:
    """A bucket of a test's own in the server, and the proxy through which it is reached.

    Args:
        server: The address of the server.
        bucket: A name that no other test has.
        seed: Of what faults strike at random.
    """

    def __init__(self, server: str, bucket: str, seed: int) -> None:
        self.bucket = bucket
        self.proxy = Proxy(server, said=_SAID)
        self.proxy.fate = self._fate
        self.faults: Sequence[Fault] = ()
        """The first one that strikes decides."""
        self.happened: Counter[tuple[str, Fate]] = Counter()
        """Requests by method and what became of them."""
        self._draw = Random(seed)
        self._lock = threading.Lock()
        self._past = _past_the_faults(server)
        self._past.create_bucket(Bucket=bucket)

    @property
    def address(self) -> str:
        """A place in the bucket, as a user writes it."""
        return f"s3://{self.bucket}/some/where"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to get there, and nothing of the person who runs the tests."""
        return {
            "AWS_ACCESS_KEY_ID": "of-the-tests",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": "*",
        }

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Have these faults for a while, in place of those there are."""
        before, self.faults = self.faults, faults
        try:
            yield
        finally:
            self.faults = before

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse all connections for a while."""
        self.proxy.close()
        try:
            yield
        finally:
            self.proxy.open()

    def client(self, **config: Any) -> Any:
        """Return a boto3 client that meets the faults, with these settings of botocore."""
        return _client(self.proxy.url, **config)

    def contents(self) -> dict[str, bytes]:
        """Return all that is stored in the bucket, by key, whatever the faults."""
        pages = self._past.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key: self._past.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys
        }

    def abolish(self) -> None:
        """Remove the bucket with all that is in it, as somebody else may."""
        for key in self.contents():
            self._past.delete_object(Bucket=self.bucket, Key=key)
        self._past.delete_bucket(Bucket=self.bucket)

    def half_uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were begun and neither completed nor aborted."""
        found = self._past.list_multipart_uploads(Bucket=self.bucket)
        return [upload["Key"] for upload in found.get("Uploads", ())]

    def _fate(self, asked: str) -> Fate:
        method, _, path = asked.partition(" ")
        key = unquote(path).removeprefix(f"/{self.bucket}").lstrip("/")
        with self._lock:
            struck = (
                one.fate
                for one in self.faults
                if not (one.absent and key in self.contents())
                and one.strikes(method, key, self._draw)
            )
            fate = next(struck, "pass")
            self.happened[method, fate] += 1
        return fate


def _client(endpoint: str, **config: Any) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session("of-the-tests", SECRET, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=Config(proxies={}, **config))


_past_the_faults = cache(_client)  # to make one takes longer than most tests


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server for the whole session."""
    pytest.importorskip("moto.server", reason="needs moto[server] (the extra 'dev' has it)")
    log = tmp_path_factory.mktemp("object-store") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        address = wait_until(lambda: _address_in(log), f"an address in {log}")
        wait_until(lambda: _answers(address), f"an answer of {address}")
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def object_store(object_server: str) -> Iterator[ObjectStore]:
    """An empty bucket, and a proxy before it without faults."""
    seed = randrange(2**32)
    print(f"faults are drawn from seed {seed}")
    store = ObjectStore(object_server, f"bucket-{next(_NUMBERS)}", seed)
    yield store
    store.proxy.end()


@pytest.fixture
def reached_store(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """A store that this process has access to."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    yield object_store
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def reached(reached_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same, whose client is impatient."""
    monkeypatch.setattr(objects, "_READ_TIMEOUT", 2)
    return reached_store


_NUMBERS = count()


def _address_in(log: Path) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return found[0] if found else ""


def _answers(address: str) -> bool:
    with suppress(URLError, OSError), urlopen(f"{address}/moto-api/", timeout=10) as answer:
        return bool(answer.status == 200)
    return False
