"""Keys of an object store, spoken to like ``pathlib.Path``, as far as trials need it.

An object is written whole or not at all, without anything of ours. Every call is repeated within
the client for about a minute; what fails then is a StorageError.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, BinaryIO, cast

from adarelu_sweep.errors import UserError
from adarelu_sweep.secrets import in_one_line, without_password

CREDENTIALS = ("AWS_", "FSSPEC_")
"""What the names of the environment variables begin with that a store's client reads."""

_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[^\s?#@]*)?")
_CONNECT_TIMEOUT = 10  # seconds
_READ_TIMEOUT = 20  # seconds without a byte of the answer
_ATTEMPTS = 2  # of botocore, for each of as many of s3fs: the two know different errors
_HEADER = 2**18  # bytes; most headers need no second request
_PART = 2**24  # bytes; what is larger than two of these is uploaded in such parts


class StorageError(OSError):
    """A store does not answer, or refuses: later it may succeed. Has no errno."""


class RefusedError(StorageError):
    """A store does not let this account do it."""


@dataclass(frozen=True)
class ObjectPath:
    """An object, or what the keys of several begin with."""

    address: str
    """s3://BUCKET/KEY"""

    @classmethod
    def parse(cls, address: str) -> "ObjectPath":
        """Return it; raise ValueError for what is no address of a store that can be used."""
        if not _ADDRESS.fullmatch(address):
            shown = without_password(address)
            raise ValueError(f"{shown!r}: give s3://BUCKET/PREFIX, or the whole path of a folder")
        return cls(address.rstrip("/"))

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(f"{self.address}/{name}")

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.address.rpartition("/")[2]

    def with_name(self, name: str) -> "ObjectPath":
        """Return the one beside it with this name."""
        return ObjectPath(f"{self.address.rpartition('/')[0]}/{name}")

    @contextmanager
    def open(self, _mode: str = "rb") -> Iterator[BinaryIO]:
        """Open it to be read, at one state of it; raise FileNotFoundError if there is none.

        Only what is read is fetched, so that a header costs no more than that.
        """
        with self._explained():
            try:
                file = self._store.open(self.address, "rb", block_size=_HEADER)
            except FileNotFoundError:
                self._require_bucket()
                raise
            with file:
                yield cast(BinaryIO, file)

    def read_bytes(self) -> bytes:
        """Return all of it, in one request; raise FileNotFoundError if there is none."""
        with self._explained():
            try:
                return cast(bytes, self._store.cat_file(self.address, max_concurrency=1))
            except FileNotFoundError:
                self._require_bucket()
                raise

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return all of it as text; raise FileNotFoundError if there is none."""
        return self.read_bytes().decode(encoding)

    def exists(self) -> bool:
        """Return whether there is such an object."""
        return self.state() is not None

    def state(self) -> str | None:
        """Return what is another where the object is another one; None if there is none."""
        with self._explained():
            try:
                found = self._store.info(self.address)
            except FileNotFoundError:
                self._require_bucket()
                return None
        return f"{found['ETag']} {found['size']}" if found["type"] == "file" else None

    def glob(self, pattern: str) -> list["ObjectPath"]:
        """Return the objects directly below it whose names match."""
        with self._explained():
            try:
                found = self._store.ls(self.address, detail=True)
            except FileNotFoundError:
                self._require_bucket()
                return []
        names = [one["name"].rpartition("/")[2] for one in found if one["type"] == "file"]
        return [self / name for name in names if fnmatchcase(name, pattern)]

    def write(self, *content: bytes | memoryview, before: "ObjectPath | None" = None) -> None:
        """Write it whole or not at all, the one that is there being kept as ``before`` if given.

        It is copied there first: a kill in between leaves the same object under both keys.
        """
        with self._explained():
            if before is not None:
                self._copy(before)
            try:
                self._store.pipe_file(self.address, b"".join(content), chunksize=_PART)
            except FileNotFoundError:
                raise StorageError(f"{self}: there is no such bucket") from None

    def replace(self, target: "ObjectPath") -> None:
        """Move it to another key."""
        with self._explained():
            if self._copy(target):
                self._store.rm_file(self.address)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        with self._explained():
            if not missing_ok:
                self._store.info(self.address)
            self._remove(self.address)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    def remove_all(self, but: str | None = None) -> None:
        """Remove every object below it, but for one of this name if given."""
        with self._explained():
            try:
                found = self._store.find(self.address)
            except FileNotFoundError:
                self._require_bucket()
                return
            for key in found:
                if but is None or f"s3://{key}" != f"{self}/{but}":
                    self._remove(key)

    def _remove(self, key: str) -> None:
        """Remove an object. S3 says nothing of one that is not there; others say that it is not."""
        try:
            self._store.rm_file(key)
        except FileNotFoundError:
            self._require_bucket()

    def _copy(self, target: "ObjectPath") -> bool:
        """Copy it within the store; return whether it is there."""
        try:
            self._store.cp_file(self.address, target.address)
        except FileNotFoundError:
            self._require_bucket()
            return False
        return True

    def _require_bucket(self) -> None:
        """Raise where it is the bucket that is not there: nothing follows for what was in it."""
        try:
            self._store.cat_file(self.address, 0, 1)
        except FileNotFoundError as error:
            response = getattr(error.__cause__, "response", None) or {}
            if response.get("Error", {}).get("Code") == "NoSuchBucket":
                raise StorageError(f"{self}: there is no such bucket") from error

    @property
    def _store(self) -> Any:
        """The client, one for the whole process."""
        try:
            import s3fs
        except ImportError:
            raise UserError(f"{self} needs s3fs: pip install 'adarelu-sweep[s3]'") from None
        store = s3fs.S3FileSystem(
            use_listings_cache=False,  # others write, too
            config_kwargs={
                "connect_timeout": _CONNECT_TIMEOUT,
                "read_timeout": _READ_TIMEOUT,
                "retries": {"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            },
        )
        store.retries = _ATTEMPTS
        try:
            store.connect()  # nothing is said to the store yet; done once
        except ValueError as error:  # in most cases, an endpoint that is no address
            raise StorageError(
                f"{self}: a setting of the store is wrong ({in_one_line(error)}); its endpoint is "
                "given as https://HOST:PORT (AWS_ENDPOINT_URL)"
            ) from None
        return store

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise a StorageError for whatever goes wrong with the store, but for what is not there.

        Not OSError alone: s3fs lets through much of what its client raises.
        """
        try:
            yield
        except (FileNotFoundError, StorageError):
            raise
        except PermissionError as error:
            raise RefusedError(f"{self}: the store refuses it ({in_one_line(error)})") from error
        except OSError as error:
            raise StorageError(f"{self}: {_reason(error)}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in _CLIENTS:
                raise StorageError(f"{self}: {_reason(error)}") from error
            raise


_CLIENTS = {"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs"}


def _reason(error: Exception) -> str:
    return f"the store does not answer as it should ({in_one_line(error)})"
