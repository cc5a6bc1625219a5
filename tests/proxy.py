"""An HTTP proxy before a tracking server or an object store, which misbehaves on request."""

import base64
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fate = Literal[
    "pass",
    "error",  # it says 500
    "busy",  # it says 503
    "refuse",  # it says 403
    "missing",  # it says 404
    "hang",  # it accepts, and says nothing
    "late",  # it lets the request through once the client has given up
    "cut request",  # half of it is read and passed on, and both connections are reset
    "cut answer",  # the server has acted, and the client does not learn of it
    "slow",
]
FATES: list[Fate] = ["pass", "error", "hang", "late", "cut request", "cut answer", "slow"]

_ERRORS: dict[Fate, bytes] = {
    "error": b"500 Internal Server Error",
    "busy": b"503 Service Unavailable",
    "refuse": b"403 Forbidden",
    "missing": b"404 Not Found",
}


class Proxy:
    """Listens on a port of its own and passes on to ``upstream``, as ``fate`` says.

    Args:
        upstream: The address of the server behind it.
        password: Demand basic authentication with this password, whatever the user.
        late: Seconds after which a late request is passed on.
        said: What it says with an error.
    """

    def __init__(
        self,
        upstream: str,
        password: str | None = None,
        late: float = 3.0,
        said: dict[Fate, bytes] | None = None,
    ) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.password = password
        self.late = late
        self.said = said or {}
        self.fate: Callable[[str], Fate] = lambda _request: "pass"
        self.seen: list[tuple[str, Fate]] = []
        """What was asked, ``METHOD /path``, and what became of it."""
        self.answered = 0
        """Bytes that the server has answered, one request at a time."""
        self.ended = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def all_are(self, fate: Fate) -> None:
        """Let the same become of every request from now on."""
        self.fate = lambda _request: fate

    def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.proxy = self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def end(self) -> None:
        """Refuse connections, and let go of those that hang."""
        self.ended.set()
        self.close()


class _Server(ThreadingHTTPServer):
    proxy: Proxy
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def shutdown_request(self, request: Any) -> None:
        """Close it, and say no farewell where it is to be reset."""
        self.close_request(request)

    def handle_error(self, *_: Any) -> None:
        """A client that has gone away is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 60
    protocol_version = "HTTP/1.1"  # of one who tells a client that waits for it to go on

    def _answer(self) -> None:
        proxy = self.server.proxy
        self.close_connection = True
        if proxy._server is not self.server:
            return
        if proxy.password is not None and not self._knows(proxy.password):
            self._body()
            self._say(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n")
            return
        asked = f"{self.command} {urlsplit(self.path).path}"
        fate = proxy.fate(asked)
        proxy.seen.append((asked, fate))
        if fate == "cut request":
            self._send_half()
            return
        body = self._body()
        if fate in _ERRORS:
            said = b"" if self.command == "HEAD" else proxy.said.get(fate, b"out of order")
            head = b"HTTP/1.1 %s\r\nConnection: close\r\n" % _ERRORS[fate]
            self._say(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(said), said))
        elif fate == "hang":
            proxy.ended.wait(60)
        else:
            if fate in ("slow", "late"):
                time.sleep(proxy.late if fate == "late" else 0.2)
            answer = self._pass_on(body)
            proxy.answered += len(answer)
            if fate == "cut answer":  # a head that misses something would be taken for whole
                answer = b"" if answer.endswith(b"\r\n\r\n") else answer[:-1]
            self._say(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _knows(self, password: str) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(given).decode().endswith(f":{password}")

    def _passed_headers(self, size: int) -> dict[str, str]:
        dropped = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding"}
        dropped.add("expect")  # the client of this proxy has been told to go on
        kept = {key: value for key, value in self.headers.items() if key.lower() not in dropped}
        return kept | {"Connection": "close", "Content-Length": str(size)}

    def _pass_on(self, body: bytes) -> bytes:
        """Return what the server answers, or nothing where it is gone."""
        connection = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, self._passed_headers(len(body)))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            connection.close()
        size = str(len(content))
        if self.command == "HEAD":  # it says how long the content would be
            size = answer.getheader("Content-Length", "0")
        dropped = {"connection", "transfer-encoding", "content-length"}
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in dropped]
        lines += [f"Content-Length: {size}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + content

    def _send_half(self) -> None:
        """Pass on half of what is sent, and have both connections reset when they are closed."""
        if length := int(self.headers.get("Content-Length") or 0):
            half = self.rfile.read(length // 2)
        else:
            body = self._body()
            length, half = len(body), body[: len(body) // 2]
        lines = [f"{self.command} {self.path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{key}: {value}" for key, value in self._passed_headers(length).items()]
        with suppress(OSError), socket.create_connection(self.server.proxy.upstream) as upstream:
            upstream.sendall("\r\n".join([*lines, "", ""]).encode() + half)
            time.sleep(0.05)
            # As of a client, and a server, that died.
            for connection in (upstream, self.connection):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _say(self, answer: bytes) -> None:
        with suppress(OSError):
            self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass
