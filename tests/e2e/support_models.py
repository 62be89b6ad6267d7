"""A model server for router tests: reads requests strictly, records them, and answers as a script says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

WAIT_S = 20.0


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. fields: lower-case names, in order."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


class MalformedError(Exception):
    """The router sent something that is not one unambiguous request."""


class Reader:
    """Reads messages off a socket with the strictest framing rules there are."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def head(self) -> tuple[str, tuple[tuple[str, str], ...]] | None:
        """Start line and fields; None where the peer closed between messages."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                if self.buffer:
                    raise MalformedError(f"cut in a head: {self.buffer!r}")
                return None
            self.buffer += data
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        start, *lines = head.decode("latin-1").split("\r\n")
        return start, tuple((line.split(":", 1)[0].lower(), line.split(":", 1)[1].strip()) for line in lines)

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"{size - len(self.buffer)} bytes are missing")
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("cut in a line")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.line(), 16):
            yield self.exactly(size)
            if self.line():
                raise MalformedError("a chunk is longer than it says")
        if self.line():
            raise MalformedError("trailers were forwarded")

    def request(self) -> Seen | None:
        head = self.head()
        if head is None:
            return None
        start, fields = head
        method, target, version = start.split(" ")
        names = [name for name, _ in fields]
        framing = [value for name, value in fields if name in {"content-length", "transfer-encoding"}]
        if version != "HTTP/1.1" or names.count("host") != 1 or len(framing) > 1:
            raise MalformedError(f"not one unambiguous request: {head}")
        body = b""
        if "content-length" in names:
            body = self.exactly(int(framing[0]))
        elif "transfer-encoding" in names:
            body = b"".join(self.chunks())
        return Seen(method, target, fields, body)


Script = Callable[[Seen, socket.socket], bool]


def answer(body: bytes = b"ok", *, status: str = "200 OK", fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status.encode(), fields, len(body), body)


def answering(body: bytes = b"ok", *, status: str = "200 OK", fields: bytes = b"") -> Script:
    """A script that gives one fixed answer and keeps the connection."""

    def script(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(answer(body, status=status, fields=fields))
        return True

    return script


class Gate:
    """A script waits at it until the test opens it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(WAIT_S)


def replying(make: Callable[[Seen], bytes], *, after_s: float = 0.0, gate: Gate | None = None) -> Script:
    """A script that sends the bytes `make` gives, after a pause or once a gate is open, and keeps the connection."""

    def script(seen: Seen, sock: socket.socket) -> bool:
        if gate is not None:
            gate.wait()
        time.sleep(after_s)
        sock.sendall(make(seen))
        return True

    return script


@dataclass
class ModelServer:
    """script: answers a request; False closes the connection. on_connect: takes fresh connections over if it is set."""

    name: str
    script: Script
    on_connect: Callable[[socket.socket], None] | None = None
    seen: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    port: int = 0
    _listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Like a killed process: the port refuses, every connection is reset."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in self.connections:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.connections.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.on_connect is not None:
                self.on_connect(sock)
                return
            reader = Reader(sock)
            while (seen := reader.request()) is not None:
                self.seen.append(seen)
                if reader.buffer:
                    self.faults.append(f"bytes behind a request: {reader.buffer!r}")
                if not self.script(seen, sock):
                    return
        except MalformedError as fault:
            self.faults.append(str(fault))
        except (OSError, EOFError):
            pass  # the router dropped the connection, as it may at any time
        finally:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextmanager
def model_server(name: str = "m", script: Script | None = None) -> Iterator[ModelServer]:
    """A running server; by default it answers with its name and the target."""

    def default(seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(answer(f"{name} {seen.target}".encode()))
        return True

    server = ModelServer(name, script or default)
    server.start()
    try:
        yield server
    finally:
        server.stop()
