"""Serialised decisions as the columns of an observation, field by field as `protos.observations` derives them. Pure."""

import itertools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from protos import events_pb2
from protos.observations import DECISION_COLUMNS

__all__ = ["decision_table"]

# Column -> field of Decision, where the name differs (see protos.observations).
_FIELDS = {"decision_time_us": "event_time_us"}
_PREFIXES = ("candidate_", "slot_")
_OPTIONAL_SLOT_FIELDS = frozenset(f.name for f in events_pb2.Slot.DESCRIPTOR.fields if f.has_presence)


def decision_table(payloads: Sequence[bytes]) -> pa.Table:
    """One row a payload (a serialised Event that holds a decision), the columns of DECISION_COLUMNS; agrees with `decision_row`."""
    decisions = [events_pb2.Event.FromString(payload).decision for payload in payloads]
    owners: dict[str, list[Any]] = {"": decisions, "candidate_": [decision.candidates for decision in decisions]}
    slates = [decision.slots for decision in decisions]
    slots, ends = list(itertools.chain.from_iterable(slates)), _offsets(list(map(len, slates)))
    arrays = []
    for field in DECISION_COLUMNS:
        prefix = next((p for p in _PREFIXES if field.name.startswith(p)), "")
        name = field.name.removeprefix(prefix)
        if prefix == "slot_":
            flat = pa.array(list(map(_slot_value(name), slots)), field.type.value_type)
            arrays.append(pa.ListArray.from_arrays(ends, flat, type=field.type))
        else:
            arrays.append(_array(list(map(attrgetter(_FIELDS.get(name, name)), owners[prefix])), field.type))
    return pa.table(arrays, schema=pa.schema(DECISION_COLUMNS))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.list_(pa.float32()):
        return _vectors(values)
    if pa.types.is_list(kind):
        flat = pa.array(list(itertools.chain.from_iterable(values)), kind.value_type)
        return pa.ListArray.from_arrays(_offsets(list(map(len, values))), flat, type=kind)
    return pa.array(values, kind)


def _slot_value(name: str) -> Callable[[Any], Any]:
    if name in _OPTIONAL_SLOT_FIELDS:
        return lambda slot: getattr(slot, name) if slot.HasField(name) else None
    return attrgetter(name)


def _vectors(packed: Sequence[bytes]) -> pa.Array:
    """Packed little-endian float32 as lists of numbers."""
    numbers = np.frombuffer(b"".join(packed), dtype="<f4").astype(np.float32)
    return pa.ListArray.from_arrays(_offsets([len(p) // 4 for p in packed]), pa.array(numbers), type=pa.list_(pa.float32()))


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32))
