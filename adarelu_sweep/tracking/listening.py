"""What a server's address to listen on means: who reaches it, under which names, on which port."""

import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from ipaddress import ip_address

import psutil

from adarelu_sweep.errors import UserError

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


def choose_port(host: str, port: int | None, first: int) -> int:
    """Return the port wanted, or the first free one from ``first``; UserError if there is none."""
    if port is not None and not _is_free(port, host):
        raise UserError(
            f"port {port} is in use, or {host} is not an address of this machine: give another "
            "with --port, or leave it out"
        )
    chosen = port
    if chosen is None and _is_free(0, host):
        chosen = next((p for p in range(first, 65536) if _is_free(p, host)), None)
    if chosen is None:
        raise UserError(f"--host {host}: not an address of this machine to listen on")
    return chosen


def _is_free(port: int, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        # As the server will bind it: a connection in TIME_WAIT does not count as use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError, ValueError):
            return False
    return True
