"""HTTP/2 by hand: a connection of frames as a hostile or broken caller would send them, which no client library does.

Headers are HPACK literals without indexing and without Huffman coding (RFC 7541, 6.2.2), which every peer must take.
"""

import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

__all__ = [
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "RST_STREAM",
    "SETTINGS",
    "Frame",
    "RawConnection",
    "call_headers",
]

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frame(NamedTuple):
    """One frame: its type, flags, stream and payload."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def literal(name: str, value: str) -> bytes:
    """One header; name and value of less than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call_headers(method: str, **more: str) -> bytes:
    """The headers of a gRPC call; `more` have "_" for "-"."""
    about = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "content-type": "application/grpc", "te": "trailers"}
    about |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(literal(name, value) for name, value in about.items())


class RawConnection:
    """A connection that sends what it is told to. A context manager."""

    def __init__(self, address: str, *, timeout_s: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self._socket.sendall(_PREFACE)
        self.send(SETTINGS, b"")

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def send(self, kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> None:
        """Sends one frame."""
        self._socket.sendall(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    def frames(self) -> Iterator[Frame]:
        """The frames that come, until the peer closes or resets the connection."""
        try:
            while (head := self._read(9)) is not None:
                frame = Frame(head[3], head[4], int.from_bytes(head[5:], "big"), self._read(int.from_bytes(head[:3], "big")) or b"")
                if frame.kind == PING and not frame.flags & ACK:
                    self.send(PING, frame.payload, flags=ACK)
                yield frame
        except ConnectionError:
            return

    def _read(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            got = self._socket.recv(size - len(data))
            if not got:
                return None
            data += got
        return data
