"""What may stand around an event in a Kafka message: a schema registry's header, or an Arrow stream of many events. Pure.

Event                     a tag first, which is never 0 and never 0xFF
Confluent framing         0x00, schema id (4 bytes, big-endian), message indexes (zigzag varints: how many, and each), then an Event
Arrow IPC stream          0xFFFFFFFF first; one binary column `payload`, each value an Event. Worth it from about 500 events a message
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import pyarrow as pa

from attribution.events import Raws

__all__ = ["BATCH_SCHEMA", "pack", "unpacked"]

BATCH_SCHEMA = pa.schema([pa.field("payload", pa.binary(), nullable=False)])
T = TypeVar("T")
_REGISTRY, _ARROW = b"\x00", b"\xff\xff\xff\xff"
_FIRST = frozenset((_REGISTRY, _ARROW[:1]))
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


def unpacked(records: Raws) -> Raws:
    """The records with one event each. What can't be taken apart stays as it is, and will be found undecodable."""
    wrapped = [row for row, payload in enumerate(records.payloads) if payload[:1] in _FIRST]
    if not wrapped:
        return records
    inner = {row: _events(records.payloads[row]) for row in wrapped}
    if all(len(events) == 1 for events in inner.values()):
        payloads = list(records.payloads)
        for row, (event,) in inner.items():
            payloads[row] = event
        return records._replace(payloads=payloads)
    return _spread(records, inner=inner)


def _spread(records: Raws, *, inner: dict[int, list[bytes]]) -> Raws:
    lists = [inner.get(row, [payload]) for row, payload in enumerate(records.payloads)]
    counts = list(map(len, lists))
    starts = [0, *itertools.accumulate(counts)]
    return Raws(
        topics=_repeated(records.topics, counts),
        partitions=_repeated(records.partitions, counts),
        offsets=_repeated(records.offsets, counts),
        payloads=list(itertools.chain.from_iterable(lists)),
        append_times_us=_repeated(records.append_times_us, counts),
        damages={starts[row]: reason for row, reason in records.damages.items()},
    )


def _repeated(values: Sequence[T], counts: Sequence[int]) -> list[T]:
    return list(itertools.chain.from_iterable(map(itertools.repeat, values, counts)))


def _events(payload: bytes) -> list[bytes]:
    if not payload.startswith(_ARROW):
        return [_behind_header(payload)]
    try:
        table = pa.ipc.open_stream(payload).read_all()
    except (pa.ArrowInvalid, OSError):
        return [payload]
    if "payload" not in table.schema.names or not table.num_rows:
        return [payload]
    try:
        events: list[bytes] = table["payload"].cast(pa.binary()).to_pylist()
    except pa.ArrowInvalid:
        return [payload]
    return [event or b"" for event in events]


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
