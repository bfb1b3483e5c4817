"""What may stand around an event in a Kafka message: a schema registry's header, or an Arrow stream of many events. Pure.

Event                     a tag first, which is never 0 and never 0xFF
Confluent framing         0x00, schema id (4 bytes, big-endian), message indexes (zigzag varints: how many, and each), then an Event
Arrow IPC stream          0xFFFFFFFF first; one binary column `payload`, each value an Event. Worth it from about 500 events a message
"""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from attribution.events import Raws
from attribution.wire import bytes_of

__all__ = ["BATCH_SCHEMA", "Values", "event_sizes", "gathered", "joined", "pack", "unpacked"]

Sizes = np.ndarray[Any, np.dtype[np.int64]]
# Values of messages: in one array, but each by itself where they are streams of many events, which need no copy then.
Values: TypeAlias = Sequence[bytes] | pa.BinaryArray

BATCH_SCHEMA = pa.schema([pa.field("payload", pa.binary(), nullable=False)])
_REGISTRY, _ARROW = b"\x00", b"\xff\xff\xff\xff"
_SCHEMA_ID_BYTES = 5
# More indexes than a message can be deep in a file are no header.
_MOST_INDEXES = 32


def pack(payloads: Sequence[bytes]) -> bytes:
    """Serialised events as the value of one message."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCH_SCHEMA) as stream:
        stream.write_batch(pa.record_batch([pa.array(payloads, pa.binary())], schema=BATCH_SCHEMA))
    value: bytes = sink.getvalue().to_pybytes()
    return value


def event_sizes(payloads: Values) -> tuple[Sizes, Sizes]:
    """How many events each value holds, and how many bytes they are in memory; one event of its own size where it is no stream that can
    be read. A stream may be compressed, so its own length says little."""
    if isinstance(payloads, pa.Array):
        _, begin, end = bytes_of(payloads)
        sizes, streams = end - begin, _beginning_with(payloads, _ARROW[:1]).tolist()
    else:
        sizes, streams = np.fromiter(map(len, payloads), dtype=np.int64, count=len(payloads)), range(len(payloads))
    counts = np.ones(len(payloads), dtype=np.int64)
    for row in streams:
        value = payloads[row].as_py() if isinstance(payloads, pa.Array) else payloads[row]
        if value.startswith(_ARROW):
            counts[row], sizes[row] = _stream_size(value)
    return counts, sizes


def gathered(payloads: Sequence[bytes]) -> Values:
    """The values of some messages as they are best kept."""
    return payloads if payloads and payloads[0].startswith(_ARROW) else pa.array(payloads, pa.binary())


def joined(parts: Sequence[Values]) -> Values:
    """The values of all parts."""
    if all(isinstance(part, pa.Array) for part in parts):
        return pa.concat_arrays([pa.array([], pa.binary()), *parts])
    return list(itertools.chain.from_iterable(part.to_pylist() if isinstance(part, pa.Array) else part for part in parts))


def _stream_size(stream: bytes) -> tuple[int, int]:
    try:
        with pa.ipc.open_stream(stream) as opened:
            batches = list(opened)
    except (pa.ArrowInvalid, OSError):
        return 1, len(stream)
    return max(sum(batch.num_rows for batch in batches), 1), max(sum(batch.nbytes for batch in batches), len(stream))


def unpacked(records: Raws) -> Raws:
    """The records with one event each, `payloads` as an Arrow array. What can't be taken apart stays, and will be found undecodable."""
    if not isinstance(records.payloads, pa.Array) and records.payloads and records.payloads[0].startswith(_ARROW):
        # Where one message holds many events, most do, and to have them all in one array first is a copy of everything.
        return _spread(records, lists=[_of_message(payload) for payload in records.payloads])
    payloads = records.payloads if isinstance(records.payloads, pa.Array) else pa.array(records.payloads, pa.binary())
    wrapped = _wrapped(payloads)
    if not wrapped.size:
        return records._replace(payloads=payloads)
    inner = {int(row): _events(payloads[int(row)].as_py()) for row in wrapped}
    if all(len(events) == 1 for events in inner.values()):
        mended = payloads.to_pylist()
        for row, events in inner.items():
            mended[row] = events[0].as_py()
        return records._replace(payloads=pa.array(mended, pa.binary()))
    return _spread(records, lists=[inner[row] if row in inner else payloads[row : row + 1] for row in range(len(payloads))])


def _of_message(payload: bytes) -> pa.BinaryArray:
    """The events of one message, in whatever form."""
    return _events(payload) if payload.startswith((_REGISTRY, _ARROW)) else pa.array([payload], pa.binary())


def _wrapped(payloads: pa.BinaryArray) -> Sizes:
    """Rows whose first byte is that of a header or a stream."""
    return _beginning_with(payloads, _REGISTRY + _ARROW[:1])


def _beginning_with(payloads: pa.BinaryArray, firsts: bytes) -> Sizes:
    """Rows whose first byte is one of these."""
    data, begin, end = bytes_of(payloads)
    if not data.size:
        return np.zeros(0, dtype=np.int64)
    first = data[np.minimum(begin, len(data) - 1)]
    found = first == firsts[0]
    for other in firsts[1:]:
        found |= first == other
    return np.flatnonzero((end > begin) & found)


def _spread(records: Raws, *, lists: Sequence[pa.BinaryArray]) -> Raws:
    """The records with the events of each, one list a record."""
    counts = np.array([len(events) for events in lists])
    source = np.repeat(np.arange(len(lists)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Raws(
        topics=pl.Series(records.topics, dtype=pl.String).gather(source),
        partitions=pl.Series(records.partitions, dtype=pl.Int32).gather(source),
        offsets=pl.Series(records.offsets, dtype=pl.Int64).gather(source),
        payloads=pa.concat_arrays(lists),
        append_times_us=pl.Series(records.append_times_us, dtype=pl.Int64).gather(source),
        damages={int(starts[row]): reason for row, reason in records.damages.items()},
    )


def _events(payload: bytes) -> pa.BinaryArray:
    """The events in one value, never none."""
    if not payload.startswith(_ARROW):
        return pa.array([_behind_header(payload)], pa.binary())
    try:
        table = pa.ipc.open_stream(payload).read_all()
    except (pa.ArrowInvalid, OSError):
        return pa.array([payload], pa.binary())
    if "payload" not in table.schema.names or not table.num_rows:
        return pa.array([payload], pa.binary())
    try:
        chunks = table["payload"].cast(pa.binary()).chunks
        events = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    except pa.ArrowInvalid:
        return pa.array([payload], pa.binary())
    return events.fill_null(b"") if events.null_count else events


def _behind_header(payload: bytes) -> bytes:
    """The event behind a registry's header; all of it where there is none. An index list of one 0 is written as one 0."""
    count, at = _varint(payload, _SCHEMA_ID_BYTES)
    if not 0 <= count <= _MOST_INDEXES:
        return payload
    for _ in range(count):
        _, at = _varint(payload, at)
    return payload[at:] if len(payload) >= at else payload


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint and the position behind it; -1 where there is none."""
    value = 0
    for shift, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + shift + 1
    return -1, len(data) + 1
