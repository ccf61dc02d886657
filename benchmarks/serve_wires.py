"""What a client puts on a socket and takes from it: HTTP/1.1, and gRPC in HTTP/2, known from their specifications only.

The bytes of a request are put together once. A wire costs the least that a client in Python can, so that what a
benchmark sees is the server. One thread can drive many: `drive`.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

_CHUNK = 1 << 18  # bytes


class Wire(Protocol):
    """One connection, on which one request is sent again and again.

    Attributes:
        socket: connected.
    """

    socket: socket.socket

    def begin(self) -> None:
        """Send the request."""

    def take(self) -> bytes | None:
        """Read what has come; the body of the response when it is complete, else None.

        Raises:
            RuntimeError: the answer is an error, or the server has closed the connection.
        """


def connected(address: tuple[str, int]) -> socket.socket:
    """A TCP connection that sends at once."""
    made = socket.create_connection(address)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def call(wire: Wire) -> bytes:
    """Send the request and wait for the response."""
    wire.begin()
    while (body := wire.take()) is None:
        pass
    return body


def drive(wires: Sequence[Wire], seconds: float) -> list[float]:
    """Have every wire make requests one after the other; what each took, in seconds."""
    latencies = []
    now = time.perf_counter()
    end = now + seconds
    with selectors.DefaultSelector() as selector:
        begun: dict[Wire, float] = {}
        for wire in wires:
            selector.register(wire.socket, selectors.EVENT_READ, wire)
            begun[wire] = time.perf_counter()
            wire.begin()
        while begun:
            for key, _ in selector.select():
                wire = key.data
                body = wire.take()
                if wire.socket is not key.fileobj:  # renewed
                    selector.unregister(key.fileobj)
                    selector.register(wire.socket, selectors.EVENT_READ, wire)
                if body is None:
                    continue
                now = time.perf_counter()
                latencies.append(now - begun.pop(wire))
                if now < end:
                    begun[wire] = now
                    wire.begin()
    return latencies


class Http1:
    """HTTP/1.1 with Content-Length.

    Args:
        url: "http://host:port".
        path, headers, body: of the request.
    """

    def __init__(self, url: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join([*lines, "", ""]).encode() + body
        self._address = (host, int(port))
        self.socket = connected(self._address)
        self._data, self._need = b"", 0
        self.head = b""

    def begin(self) -> None:
        """See `Wire`; a connection that the server gave up while it was idle is renewed."""
        self._data, self._need, self.head = b"", 0, b""
        try:
            self.socket.sendall(self._request)
        except ConnectionError:
            self.socket = connected(self._address)
            self.socket.sendall(self._request)

    def take(self) -> bytes | None:
        """See `Wire`."""
        try:
            data = self.socket.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            if self._data:
                raise RuntimeError("the server has closed the connection")
            self.socket = connected(self._address)
            self.socket.sendall(self._request)
            return None
        self._data += data
        if not self.head:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.head, self._data = self._data[:end].lower(), self._data[end + 4 :]
            self._need = int(self.field(b"content-length"))
        if len(self._data) < self._need:
            return None
        if self.head[9:12] != b"200":
            raise RuntimeError(f"{self.head[:40]!r}: {self._data[:200]!r}")
        return self._data

    def field(self, name: bytes) -> bytes:
        """The value of a header of the response; its name in lower case."""
        return self.head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_LARGEST_FRAME, _WIDE = 16384, 1 << 30
_INITIAL_WINDOW = 4  # of the settings


class Grpc:
    """gRPC's unary calls in HTTP/2 (RFC 9113), one at a time.

    Args:
        address: "host:port".
        method: "/package.Service/Method".
        message: serialised.
    """

    def __init__(self, address: str, method: str, message: bytes) -> None:
        host, _, port = address.partition(":")
        self.socket = connected((host, int(port)))
        fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": address}
        fields |= {"te": "trailers", "content-type": "application/grpc"}
        # Literals that are not to be remembered (RFC 7541, 6.2.2), so that all requests have the same bytes.
        self._headers = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in fields.items())
        self._message = struct.pack(">xI", len(message)) + message
        self._stream = -1
        self._read = b""
        # What may be sent: on the connection, on the stream, and on a new stream.
        self._window, self._stream_window, self._first_window = 65535, 0, 65535
        self._unsent = memoryview(b"")
        self._received = 0
        self._answer = b""
        self._ended = False
        settings = struct.pack(">HI", _INITIAL_WINDOW, _WIDE)
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _WIDE))
        )

    def begin(self) -> None:
        """See `Wire`."""
        self._stream += 2
        self._answer, self._ended = b"", False
        self._stream_window = self._first_window
        self._unsent = memoryview(self._message)
        self._send(_frame(_HEADERS, _END_HEADERS, self._stream, self._headers))

    def take(self) -> bytes | None:
        """See `Wire`."""
        data = self.socket.recv(_CHUNK)
        if not data:
            raise RuntimeError("the server has closed the connection")
        self._read += data
        reply = b""
        at = 0
        while len(self._read) - at >= 9:
            length = int.from_bytes(self._read[at : at + 3], "big")
            if len(self._read) - at < 9 + length:
                break
            kind, flags = self._read[at + 3], self._read[at + 4]
            stream = int.from_bytes(self._read[at + 5 : at + 9], "big")
            payload = self._read[at + 9 : at + 9 + length]
            at += 9 + length
            reply += self._frame(kind, flags, stream, payload)
        self._read = self._read[at:]
        if reply or self._unsent:
            self._send(reply)
        if not self._ended:
            return None
        self._ended = False
        if len(self._answer) < 5:
            raise RuntimeError(f"an answer without a message: {data[-200:]!r}")
        return self._answer[5:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """Read one frame; what has to be sent for it."""
        reply = b""
        if kind == _DATA and stream == self._stream:
            self._answer += payload
            self._received += len(payload)
            if self._received > _WIDE // 2:
                reply = _frame(_WINDOW, 0, 0, struct.pack(">I", self._received))
                self._received = 0
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == _INITIAL_WINDOW:
                    self._stream_window += value - self._first_window
                    self._first_window = value
            reply = _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            reply = _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
        elif kind in (_RESET, _GO_AWAY):
            raise RuntimeError(f"the server has ended the {'stream' if kind == _RESET else 'connection'}: {payload!r}")
        if kind in (_DATA, _HEADERS) and stream == self._stream and flags & _END_STREAM:
            self._ended = True
        return reply

    def _send(self, frames: bytes) -> None:
        """Send frames, and of the message what the windows have room for."""
        parts = [frames]
        while self._unsent:
            size = min(len(self._unsent), _LARGEST_FRAME, self._window, self._stream_window)
            if size <= 0:
                break
            last = size == len(self._unsent)
            parts += (_frame_head(_DATA, _END_STREAM if last else 0, self._stream, size), self._unsent[:size])
            self._unsent = self._unsent[size:]
            self._window -= size
            self._stream_window -= size
        self.socket.sendall(b"".join(parts))


def _literal(text: str) -> bytes:
    data = text.encode()
    if len(data) > 126:
        raise ValueError(f"{text!r} is longer than its length has bits")
    return bytes([len(data)]) + data


def _frame_head(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _frame_head(kind, flags, stream, len(payload)) + payload
