"""Framing of log records: magic, length, checksum, payload. Pure: bytes in, records out.

One record on disk::

    4 bytes   magic  b"SLR1"
    4 bytes   length of the payload, little-endian uint32
    4 bytes   CRC-32 (zlib) of length and payload, little-endian uint32
    n bytes   payload, a serialised protos.events_pb2.Event

The magic lets a reader find the next record after damage; a payload that happens to contain it is told apart by the checksum. A payload
that holds a whole frame is data as long as its own record is sound; if that is damaged, the inner frame is read as a record.
"""

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from protos.errors import FramingError

__all__ = ["HEADER_BYTES", "MAX_PAYLOAD_BYTES", "TORN", "Damage", "Record", "begun", "frame", "next_start", "records"]

MAGIC = b"SLR1"
HEADER_BYTES = 12
# Larger than any request that the server takes (4 MiB, gRPC's default); a longer length is damage, not data.
MAX_PAYLOAD_BYTES = 16 << 20
# Reason of a damage that begins like a record, but ends before its length says.
TORN = "torn record"


class Record(NamedTuple):
    """A whole record: `payload`, and the byte positions [start, end) of its frame."""

    payload: bytes
    start: int
    end: int


class Damage(NamedTuple):
    """Bytes [start, end) that are no record, and why."""

    reason: str
    start: int
    end: int


def frame(payload: bytes) -> bytes:
    """One record, ready for a single write.

    Raises FramingError if the payload is empty or longer than MAX_PAYLOAD_BYTES.
    """
    before, crc = begun(len(payload))
    return before + zlib.crc32(payload, crc).to_bytes(4, "little") + payload


@functools.lru_cache(maxsize=256)
def begun(size: int) -> tuple[bytes, int]:
    """How a record with a payload of `size` bytes begins, up to its checksum, and the checksum before the payload.

    For whoever frames many records of one size. Raises FramingError as `frame` does.
    """
    if not 0 < size <= MAX_PAYLOAD_BYTES:
        raise FramingError(f"payload has {size} bytes; a record takes 1 to {MAX_PAYLOAD_BYTES}: split it or shorten it")
    length = size.to_bytes(4, "little")
    return MAGIC + length, zlib.crc32(length)


def records(data: bytes | memoryview, *, base: int = 0, whole: bool = False) -> Iterator[Record | Damage]:
    """The records in `data`, in order, and the damage between them.

    `base` is the position of data[0] in its log. Bytes at the end that could still become a record are left alone, unless `whole`
    says that nothing more will be appended: then they are damage ("torn tail").
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        found = _record_at(view, at)
        if isinstance(found, Record):
            yield Record(found.payload, base + found.start, base + found.end)
            at = found.end
            continue
        following = _next_record(view, at + 1)
        if following is None and (found is None and not whole):
            return
        end = len(view) if following is None else following
        reason = TORN if found is None else found
        if following is None and not whole:
            # Damage whose end is not yet known: what follows may be the rest of it or a record still being written.
            return
        yield Damage(reason, base + at, base + end)
        at = end


def next_start(data: bytes | memoryview, at: int) -> int:
    """The first position at or after `at` where a record may begin that `data` does not hold to its end; len(data) if there is none."""
    view, mark = bytes(data), MAGIC[:1]
    at = view.find(mark, at)
    while at >= 0 and _record_at(memoryview(view), at) is not None:
        at = view.find(mark, at + 1)
    return at if at >= 0 else len(view)


def _record_at(view: memoryview, at: int) -> Record | str | None:
    """The record at `at`; a reason if there is none; None if there are too few bytes to tell."""
    head = bytes(view[at : at + HEADER_BYTES])
    if not MAGIC.startswith(head[:4]):
        return "no record mark"
    if len(head) < HEADER_BYTES:
        return None
    length, crc = struct.unpack_from("<II", head, 4)
    if not 0 < length <= MAX_PAYLOAD_BYTES:
        return "impossible length"
    end = at + HEADER_BYTES + length
    if end > len(view):
        return None
    payload = bytes(view[at + HEADER_BYTES : end])
    if zlib.crc32(payload, zlib.crc32(head[4:8])) != crc:
        return "checksum mismatch"
    return Record(payload, at, end)


def _next_record(view: memoryview, at: int) -> int | None:
    """Position of the next whole and sound record at or after `at`."""
    data = bytes(view[at:])
    offset = data.find(MAGIC)
    while offset >= 0:
        if isinstance(_record_at(view, at + offset), Record):
            return at + offset
        offset = data.find(MAGIC, offset + 1)
    return None
