"""Just enough of HTTP/2 to send one gRPC request over and over, and to time the answers: a client library's own work would be most of what
is measured (grpc.aio takes 0.3 ms of a core a call, this 0.03). The server is told to keep no header table, so a status is read where it
stands in the trailers, as text (grpcio) or in HPACK's Huffman code (the native front). Touches the network."""

import select
import socket
import struct
import time
from typing import NamedTuple

import grpc

__all__ = ["Call", "Connections"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_FRAME = struct.Struct(">HBBBI")
_WINDOW = (1 << 31) - 1
_FIRST_WINDOW = 65_535
# Of RFC 7541, appendix B: what "grpc-status" and its numbers are made of.
_CODES = {
    **{"g": "100110", "r": "101100", "p": "101011", "c": "00100", "-": "010110", "s": "01000", "t": "01001", "a": "00011", "u": "101101"},
    **{"0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011", "6": "011100", "7": "011101"},
    **{"8": "011110", "9": "011111"},
}
# Closer to the intended time than this, seconds, the sender looks at the clock instead of sleeping.
_SPIN_S = 0.0002


class Call(NamedTuple):
    """How a call ended: its status by name, and how long after the intended time, seconds."""

    status: str
    latency_s: float


class Connections:
    """Sends one body to one method over some connections in turn. Not thread-safe."""

    def __init__(self, address: str, method: str, body: bytes, *, count: int) -> None:
        self.ended: list[Call] = []
        self._all = [_Connection(address, method, body, self.ended) for _ in range(count)]
        self._by_socket = {one.socket: one for one in self._all}
        self._next = 0

    def send(self, due_s: float) -> None:
        """Sends the next call, which was due at `due_s` of the performance counter."""
        self._all[self._next].send(due_s)
        self._next = (self._next + 1) % len(self._all)

    def wait_until(self, due_s: float) -> None:
        """Takes answers until then."""
        while (left_s := due_s - time.perf_counter()) > 0:
            self._take(0.0 if left_s < _SPIN_S else left_s - _SPIN_S)

    def finish(self, *, timeout_s: float) -> None:
        """Takes answers until there are no more to come, or for so long."""
        until_s = time.perf_counter() + timeout_s
        while any(one.open for one in self._all) and time.perf_counter() < until_s:
            self._take(0.1)

    def _take(self, timeout_s: float) -> None:
        for ready in select.select(self._by_socket, (), (), timeout_s)[0]:
            self._by_socket[ready].take()


class _Connection:
    """One connection: a stream a call."""

    def __init__(self, address: str, method: str, body: bytes, ended: list[Call]) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: Intended times of the calls that have no answer yet, by stream.
        self.open: dict[int, float] = {}
        self._ended, self._received = ended, b""
        self._head, self._body = _head(address, method), b"\0" + len(body).to_bytes(4, "big") + body
        self._stream, self._window, self._waiting = 1, _FIRST_WINDOW, list[float]()
        # No header table, and room for all answers.
        settings = struct.pack(">HIHI", 1, 0, 4, _WINDOW)
        grown = struct.pack(">I", _WINDOW - _FIRST_WINDOW)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, grown))

    def send(self, due_s: float) -> None:
        """Sends a call, or keeps it until the server has room."""
        if self._window < len(self._body):
            self._waiting.append(due_s)
            return
        stream, self._stream = self._stream, self._stream + 2
        self.open[stream] = due_s
        self._window -= len(self._body)
        self.socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, self._head) + _frame(_DATA, _END_STREAM, stream, self._body))

    def take(self) -> None:
        """Takes what has arrived."""
        arrived = self.socket.recv(1 << 16)
        if not arrived:
            raise ConnectionError("the server closed a connection")
        data, at = self._received + arrived, 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > len(data):
                break
            self._frame(kind, flags, stream, data[at + 9 : end])
            at = end
        self._received = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _status(payload))
        elif kind == _RESET and stream in self.open:
            # (After a call was refused, a server may say once more that it reads no more of its message.)
            self._end(stream, "RESET")
        elif kind == _GOAWAY:
            raise ConnectionError("the server ends a connection")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self.socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            while self._waiting and self._window >= len(self._body):
                self.send(self._waiting.pop(0))

    def _end(self, stream: int, status: str) -> None:
        self._ended.append(Call(status, time.perf_counter() - self.open.pop(stream)))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def _head(address: str, method: str) -> bytes:
    """The headers of every call, in HPACK: names of the static table by number, values as they are."""
    parts = [b"\x83\x86", b"\x04" + _text(method), b"\x01" + _text(address), b"\x0f\x10" + _text("application/grpc")]
    return b"".join([*parts, b"\x00" + _text("te") + _text("trailers")])


def _text(value: str) -> bytes:
    assert len(value) < 127, value
    return bytes([len(value)]) + value.encode()


def _literals(value: str) -> tuple[bytes, bytes]:
    """A text with its length before it, as it is and in Huffman's code."""
    bits = "".join(_CODES[letter] for letter in value)
    size = -(-len(bits) // 8)
    return _text(value), bytes([0x80 | size]) + int(bits.ljust(8 * size, "1"), 2).to_bytes(size, "big")


# With the length before it: "grpc-status-details-bin" is another.
_STATUSES = {
    name + number: code.name
    for code in grpc.StatusCode
    for name, number in zip(_literals("grpc-status"), _literals(str(code.value[0])), strict=True)
}


def _status(block: bytes) -> str:
    """The status in the trailers; UNKNOWN_TRAILERS where it cannot be read, which no server of ours sends."""
    return next((name for literal, name in _STATUSES.items() if literal in block), "UNKNOWN_TRAILERS")
