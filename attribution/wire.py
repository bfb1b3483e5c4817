"""Serialised events to Arrow, many at a time: by `ptars` (Rust) where it is installed, else by the protobuf library, with one result. Pure.

`ptars` refuses a whole list for one bad payload. The bad one is then looked for by halving, and becomes what the protobuf library makes of
it: that library is the judge of what an event is, here and in every producer.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from protos import events_pb2

__all__ = ["KINDS", "columns_by_protobuf", "event_columns", "key_columns"]

KINDS = ("decision", "impression", "reward", "signal", "heartbeat")
# Of a decision the join needs these as long as it is open; all of it is read once, when it closes.
_DECISION_KEYS = ("decision_id", "tenant", "task", "unit_id", "event_time_us", "context", "candidates", "slots")
_PART_KEYS = {"Decision": _DECISION_KEYS, "CandidateSet": ("packed_features",), "Slot": ("numerator",)}
# Lists this short are gone through one by one.
_FEW = 16

Columns = Callable[[Sequence[bytes]], pa.RecordBatch]


def event_columns(payloads: Sequence[bytes]) -> pa.RecordBatch:
    """One row a payload, one struct column a kind with every field of it; null = another kind, null in all = no event."""
    return _sound(payloads, _reader(events_pb2.Event.DESCRIPTOR))


def key_columns(payloads: Sequence[bytes]) -> pa.RecordBatch:
    """As `event_columns`, but of a decision only the keys and what shows whether it is sound."""
    return _sound(payloads, _reader(_slim_event()))


def columns_by_protobuf(payloads: Sequence[bytes], *, descriptor: Descriptor) -> pa.RecordBatch:
    """The slow way: what `ptars` is checked against, and what runs where it is absent."""
    schema = _schema(descriptor)
    rows = [_row(descriptor, events_pb2.Event.FromString(payload)) for payload in payloads]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


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

    def read(payloads: Sequence[bytes]) -> pa.RecordBatch:
        return handler.list_to_record_batch(list(payloads) or [b""]).slice(0, len(payloads)).cast(schema)

    return read


def _ptars() -> Any:
    try:
        return importlib.import_module("ptars")
    except ImportError:
        return None


@functools.cache
def _slim_event() -> Descriptor:
    """The message Event without the fields that only a closed decision is asked for: a parser passes over what it does not know."""
    file = descriptor_pb2.FileDescriptorProto()
    events_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "slateloop/event_keys.proto"
    for message in file.message_type:
        kept = [field for field in message.field if field.name in _PART_KEYS.get(message.name, (field.name,))]
        del message.field[:]
        message.field.extend(kept)
        ones = {name: number for number, name in enumerate(dict.fromkeys(_oneofs(message, kept)))}
        names = [message.oneof_decl[number].name for number in ones]
        del message.oneof_decl[:]
        for number, name in enumerate(names):
            message.oneof_decl.add(name=name)
            assert number < len(ones)
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
