"""Messages of one length as the rows of an array: what they share is written once for all, and each field of theirs as a column. Pure."""

import zlib
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from protos.framing import HEADER_BYTES, begun
from serving.wire import head, times_of

__all__ = ["DecisionBlock", "block", "column", "lay", "rows_of"]

# Times as they are now take eight bytes as a varint, until the year 4253.
_TIME_BYTES = 8
_CRC = slice(HEADER_BYTES - 4, HEADER_BYTES)


def column(items: Sequence[bytes]) -> np.ndarray:
    """Byte strings of one length, as u8[n, length]."""
    return np.frombuffer(b"".join(items), np.uint8).reshape(len(items), -1)


def block(rows: int, parts: Sequence[bytes | np.ndarray]) -> np.ndarray:
    """The parts side by side, u8[rows, length]: bytes that every row has, and columns u8[rows, k]."""
    found = np.empty((rows, sum(len(part) if isinstance(part, bytes) else part.shape[1] for part in parts)), np.uint8)
    lay(found, parts)
    return found


def lay(found: np.ndarray, parts: Sequence[bytes | np.ndarray]) -> None:
    """Lays the parts side by side into u8[rows, length], which they fill."""
    at = 0
    for part in parts:
        given = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        behind = at + given.shape[-1]
        found[:, at:behind] = given
        at = behind


def rows_of(found: np.ndarray) -> list[bytes]:
    """The bytes of each row of an array of any type and shape."""
    data, size = found.tobytes(), found[0].nbytes
    return [data[at : at + size] for at in range(0, len(data), size)]


class DecisionBlock(Sequence[bytes]):
    """Serialised Decisions without their times, all of one length, which are framed for the log together (`framed`)."""

    def __init__(self, rows: int, parts: Sequence[bytes | np.ndarray]) -> None:
        """`parts` of the Decisions, as `block` takes them."""
        self._rows, self._parts = rows, parts
        self._size = sum(len(part) if isinstance(part, bytes) else part.shape[1] for part in parts)
        self._lay_out(_TIME_BYTES)

    def _lay_out(self, time_bytes: int) -> None:
        """The records, with room for checksums and for times of so many bytes: made before the turn in the log comes."""
        event = head(b"\x0a", self._size + 1 + time_bytes)
        self._times = 2 * (1 + time_bytes)
        begin, self._started = begun(len(event) + self._size + self._times)
        self._body = slice(HEADER_BYTES + len(event), HEADER_BYTES + len(event) + self._size)
        self._records = block(self._rows, [begin, bytes(4), event, *self._parts, bytes(self._times)])

    def framed(self, now_us: int) -> memoryview:
        """The records of the log, with their times, behind each other."""
        times, _ = times_of(now_us)
        if len(times) != self._times:
            self._lay_out(len(times) // 2 - 1)
        records, started = self._records, self._started
        records[:, self._body.stop :] = np.frombuffer(times, np.uint8)
        data, size = records.reshape(-1).data, records.shape[1]
        checksums = [zlib.crc32(data[at + HEADER_BYTES : at + size], started) for at in range(0, len(data), size)]
        records[:, _CRC] = np.array(checksums, "<u4").view(np.uint8).reshape(-1, 4)
        return data

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[bytes]:
        return iter(rows_of(self._records[:, self._body]))

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return list(self)[at]
