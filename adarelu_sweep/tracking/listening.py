"""What a server's address to listen on means: who reaches it, and under which names."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

import psutil

HOST = "127.0.0.1"
_EVERYWHERE = {"0.0.0.0": HOST, "::": "::1"}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False  # a name, which may lead anywhere


def address_of(host: str) -> str:
    """Return where this machine reaches what listens on ``host``, as an address has it."""
    reached = _EVERYWHERE.get(host, host)
    return f"[{reached}]" if ":" in reached else reached


def browsed_names(host: str, others: Sequence[str] = ()) -> list[str]:
    """Return the names and addresses under which browsers may ask for the server.

    Those of loopback always: it is what the far end of an ssh tunnel is called.
    """
    names = [*_LOOPBACK, *others]
    if host in _EVERYWHERE:
        names += [socket.gethostname(), socket.getfqdn()]
        families = {socket.AF_INET, socket.AF_INET6} if ":" in host else {socket.AF_INET}
        for addresses in psutil.net_if_addrs().values():
            there = [a.address.partition("%")[0] for a in addresses if a.family in families]
            names += map(address_of, there)
    else:
        names.append(address_of(host))
    return list(dict.fromkeys(names))


def allowed_patterns(names: Sequence[str]) -> list[str]:
    """Return what MLflow holds a request's Host against: the names, without a port and with any."""
    return [pattern for name in names for pattern in (name, f"{name.replace('[', '[[]')}:*")]
