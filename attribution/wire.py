"""Serialised events to Arrow, many at a time: by `ptars` (Rust) where it is installed, else by the protobuf library, with one result. Pure.

`ptars` refuses a whole list for one bad payload. The bad one is then looked for by halving, and becomes what the protobuf library makes of
it: that library is the judge of what an event is, here and in every producer.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from protos import events_pb2

__all__ = ["KINDS", "Part", "bytes_of", "columns_by_protobuf", "event_columns", "key_columns", "key_parts", "lists_of", "whole_parts"]

KINDS = ("decision", "impression", "reward", "signal", "heartbeat")
# Of a decision the join needs these as long as it is open; all of it is read once, when it closes.
_DECISION_KEYS = ("decision_id", "tenant", "task", "unit_id", "event_time_us", "context", "candidates", "slots")
_PART_KEYS = {"Decision": _DECISION_KEYS, "CandidateSet": ("packed_features",), "Slot": ("numerator",)}
_TIME_TAG = events_pb2.Event.DESCRIPTOR.fields_by_name["append_time_us"].number << 3
# A tag, and a number of 64 bits.
_MOST_TIME_BYTES = 11
# Lists this short are gone through one by one.
_FEW = 16

Columns = Callable[[Sequence[bytes] | pa.BinaryArray], pa.RecordBatch]


class Part(NamedTuple):
    """Events of one kind: their rows in the list they were read from, ascending, their bodies and when the log took them."""

    kind: str
    rows: np.ndarray[Any, np.dtype[np.int64]]
    bodies: pa.StructArray
    append_time_us: pa.Int64Array


def key_parts(payloads: pa.BinaryArray) -> list[Part]:
    """As `key_columns`, kind by kind; what is in no part is no event. A kind alone is read in half the time of all side by side."""
    return list(_parts(payloads, slim=True))


def whole_parts(payloads: pa.BinaryArray) -> list[Part]:
    """As `event_columns`, kind by kind; what is in no part is no event."""
    return list(_parts(payloads, slim=False))


def _parts(payloads: pa.BinaryArray, *, slim: bool) -> Iterator[Part]:
    numbers = _plain_kinds(payloads)
    rest = [np.flatnonzero(numbers == 0)]
    for number, kind in enumerate(KINDS, 1):
        rows = np.flatnonzero(numbers == number)
        if not rows.size:
            continue
        try:
            batch = _reader(_event_of(kind, slim))(_at(payloads, rows))
        except (ValueError, DecodeError):
            rest.append(rows)
            continue
        yield Part(kind, rows, batch[kind], batch["append_time_us"])
    others = np.sort(np.concatenate(rest))
    if others.size:
        batch = (key_columns if slim else event_columns)(payloads.take(pa.array(others)).to_pylist())
        for kind in KINDS:
            found = batch[kind].is_valid()
            if found.true_count:
                yield Part(
                    kind, others[found.to_numpy(zero_copy_only=False)], batch[kind].filter(found), batch["append_time_us"].filter(found)
                )


def _at(payloads: pa.BinaryArray, rows: np.ndarray[Any, np.dtype[np.int64]]) -> pa.BinaryArray:
    """The payloads of these rows, which ascend; not copied where they lie together."""
    first, last = int(rows[0]), int(rows[-1])
    return payloads[first : last + 1] if last - first + 1 == rows.size else payloads.take(pa.array(rows))


def event_columns(payloads: Sequence[bytes]) -> pa.RecordBatch:
    """One row a payload, one struct column a kind with every field of it; null = another kind, null in all = no event."""
    return _sound(payloads, _reader(events_pb2.Event.DESCRIPTOR))


def key_columns(payloads: Sequence[bytes]) -> pa.RecordBatch:
    """As `event_columns`, but of a decision only the keys and what shows whether it is sound."""
    return _sound(payloads, _reader(_event_of("", True)))


def columns_by_protobuf(payloads: Sequence[bytes] | pa.BinaryArray, *, descriptor: Descriptor) -> pa.RecordBatch:
    """The slow way: what `ptars` is checked against, and what runs where it is absent."""
    schema = _schema(descriptor)
    payloads = payloads.to_pylist() if isinstance(payloads, pa.Array) else payloads
    rows = [_row(descriptor, events_pb2.Event.FromString(payload)) for payload in payloads]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _plain_kinds(payloads: pa.BinaryArray) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Number of the kind of each payload that is one body, and at most the log's time behind it; 0 = looks otherwise.

    Says nothing of what is in the body.
    """
    if not len(payloads):
        return np.zeros(0, dtype=np.int8)
    data, begin, end = bytes_of(payloads)
    last = len(data) - 1
    if last < 0:
        return np.zeros(len(payloads), dtype=np.int8)
    tag = data[np.minimum(begin, last)]
    size = np.zeros(len(payloads), dtype=np.int64)
    at, more = begin + 1, np.full(len(payloads), True)
    for shift in (0, 7, 14, 21):
        byte = data[np.minimum(at, last)].astype(np.int64)
        size += np.where(more, (byte & 0x7F) << shift, 0)
        at += more
        more &= byte >= 0x80
        if not more.any():
            break
    left = end - at - size
    plain = (end - begin >= 2) & ~more & (left >= 0)
    if left.any():
        plain &= (left == 0) | _is_time(data, at + size, left)
    kind = tag >> 3
    return np.where(plain & (tag & 7 == 2) & (kind >= 1) & (kind <= len(KINDS)), kind, 0).astype(np.int8)


def _is_time(data: Any, begin: Any, size: Any) -> Any:
    """Is what stands there the log's time, and nothing else: its tag, and one varint?"""
    last = len(data) - 1
    time = (size >= 2) & (size <= _MOST_TIME_BYTES) & (data[np.minimum(begin, last)] == _TIME_TAG)
    for number in range(1, _MOST_TIME_BYTES):
        ends = data[np.minimum(begin + number, last)] < 0x80
        time &= (number >= size) | (ends == (number == size - 1))
    return time


def bytes_of(payloads: pa.BinaryArray) -> tuple[Any, Any, Any]:
    """All bytes, and where each payload begins and ends in them."""
    _, offsets, data = payloads.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[payloads.offset : payloads.offset + len(payloads) + 1].astype(np.int64)
    return np.frombuffer(data if data is not None else b"", dtype=np.uint8), ends[:-1], ends[1:]


def _sound(payloads: Sequence[bytes], read: Columns) -> pa.RecordBatch:
    batch = _readable(payloads, read)
    kinds = sum(batch[kind].is_valid().cast(pa.int8()).to_numpy(zero_copy_only=False) for kind in KINDS)
    several = [int(row) for row in (kinds > 1).nonzero()[0]]
    if not several:
        return batch
    # Two kinds in one event: the last one stands, as in every protobuf library.
    mended = list(payloads)
    for row in several:
        mended[row] = _canonical(payloads[row])
    return _readable(mended, read)


def _readable(payloads: Sequence[bytes], read: Columns) -> pa.RecordBatch:
    try:
        return read(payloads)
    except (ValueError, DecodeError):
        return read(_mended(payloads, read))


def _mended(payloads: Sequence[bytes], read: Columns) -> list[bytes]:
    """The payloads, the unreadable ones in canonical form or empty."""
    try:
        read(payloads)
        return list(payloads)
    except (ValueError, DecodeError):
        if len(payloads) <= _FEW:
            return [_canonical(payload) for payload in payloads]
    half = len(payloads) // 2
    return [*_mended(payloads[:half], read), *_mended(payloads[half:], read)]


def _canonical(payload: bytes) -> bytes:
    try:
        event = events_pb2.Event.FromString(payload)
    except DecodeError:
        return b""
    event.DiscardUnknownFields()
    return event.SerializeToString()


@functools.cache
def _reader(descriptor: Descriptor) -> Columns:
    ptars = _ptars()
    if ptars is None:
        return functools.partial(columns_by_protobuf, descriptor=descriptor)
    handler, schema = ptars.HandlerPool([descriptor.file]).get_for_message(descriptor), _schema(descriptor)

    def read(payloads: Sequence[bytes] | pa.BinaryArray) -> pa.RecordBatch:
        if isinstance(payloads, pa.Array) and len(payloads):
            return handler.array_to_record_batch(payloads).cast(schema)
        return handler.list_to_record_batch(list(payloads) or [b""]).slice(0, len(payloads)).cast(schema)

    return read


def _ptars() -> Any:
    try:
        return importlib.import_module("ptars")
    except ImportError:
        return None


@functools.cache
def _event_of(kind: str, slim: bool) -> Descriptor:
    """The message Event of one kind (empty: of all); slim: without the fields that only a closed decision is asked for.

    A parser passes over what it does not know.
    """
    file = descriptor_pb2.FileDescriptorProto()
    events_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = f"slateloop/event_{kind}{slim}.proto"
    parts: dict[str, Sequence[str]] = {**(_PART_KEYS if slim else {}), **({"Event": (kind, "append_time_us")} if kind else {})}
    for message in file.message_type:
        kept = [field for field in message.field if field.name in parts.get(message.name, (field.name,))]
        del message.field[:]
        message.field.extend(kept)
        ones = {name: number for number, name in enumerate(dict.fromkeys(_oneofs(message, kept)))}
        names = [message.oneof_decl[number].name for number in ones]
        del message.oneof_decl[:]
        for name in names:
            message.oneof_decl.add(name=name)
        for field in message.field:
            if field.HasField("oneof_index"):
                field.oneof_index = ones[field.oneof_index]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName(events_pb2.Event.DESCRIPTOR.full_name)


def _oneofs(message: descriptor_pb2.DescriptorProto, fields: Sequence[Any]) -> list[int]:
    return [field.oneof_index for field in fields if field.HasField("oneof_index")]


_SCALARS = {
    FieldDescriptor.TYPE_STRING: pa.string(),
    FieldDescriptor.TYPE_BYTES: pa.binary(),
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    FieldDescriptor.TYPE_DOUBLE: pa.float64(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_INT32: pa.int32(),
    FieldDescriptor.TYPE_UINT32: pa.uint32(),
    FieldDescriptor.TYPE_ENUM: pa.int32(),
}


@functools.cache
def _schema(descriptor: Descriptor) -> pa.Schema:
    return pa.schema([pa.field(field.name, _type(field)) for field in descriptor.fields])


def _type(field: Any) -> pa.DataType:
    one = pa.struct([(f.name, _type(f)) for f in field.message_type.fields]) if field.message_type else _SCALARS[field.type]
    return pa.list_(one) if field.is_repeated else one


def _row(descriptor: Descriptor, message: Any) -> dict[str, Any]:
    return {field.name: _value(field, message) for field in descriptor.fields}


def _value(field: Any, message: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_row(field.message_type, one) for one in value] if field.message_type else list(value)
    if field.message_type:
        return _row(field.message_type, value) if message.HasField(field.name) else None
    return None if field.has_presence and not message.HasField(field.name) else value


def lists_of(column: pa.Array, name: str) -> pa.ListArray:
    """One field of a list of structs, as a list of its own."""
    return pa.ListArray.from_arrays(column.offsets, pc.struct_field(column.values, name), mask=column.is_null())
