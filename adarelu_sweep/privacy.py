"""Files for their owner only, but for those that a user wants elsewhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OWNER_ONLY = 0o077
_KEPT = "ADARELU_SWEEP_UMASK"


def keep_to_owner() -> None:
    """Let this process and all that it starts make files and folders for their owner only.

    Workers, servers and the files that libraries write follow, without being asked one by one.
    """
    before = os.umask(_OWNER_ONLY)
    os.environ.setdefault(_KEPT, f"{before:o}")  # a sweep in the background was started by another


def users_umask() -> int:
    """Return the umask that the user has, or had before ``keep_to_owner``."""
    if _KEPT in os.environ:
        return int(os.environ[_KEPT], 8)
    current = os.umask(_OWNER_ONLY)
    os.umask(current)
    return current


@contextmanager
def as_the_user_has_it() -> Iterator[None]:
    """Make files as the user's umask says, while no other thread makes any."""
    before = os.umask(users_umask())
    try:
        yield
    finally:
        os.umask(before)
