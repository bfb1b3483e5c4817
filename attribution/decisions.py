"""Serialised decisions as the columns of an observation, field by field as `protos.observations` derives them. Pure."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attribution.wire import event_columns, lists_of, whole_parts
from protos.observations import DECISION_COLUMNS

__all__ = ["decision_table"]

# Column -> field of Decision, where the name differs (see protos.observations).
_FIELDS = {"decision_time_us": "event_time_us"}
_VECTOR = pa.list_(pa.float32())


def decision_table(payloads: Sequence[bytes] | pa.BinaryArray) -> pa.Table:
    """One row a payload (a serialised Event that holds a decision), the columns of DECISION_COLUMNS; agrees with `decision_row`."""
    parts = whole_parts(payloads if isinstance(payloads, pa.Array) else pa.array(payloads, pa.binary()))
    decisions = parts[0].bodies if parts else event_columns([])["decision"]
    if len(parts) > 1:
        decisions = pa.concat_arrays([part.bodies for part in parts])
        decisions = decisions.take(pa.array(np.argsort(np.concatenate([part.rows for part in parts]))))
    return pa.table([_column(decisions, field) for field in DECISION_COLUMNS], schema=pa.schema(DECISION_COLUMNS))


def _column(decisions: pa.StructArray, field: pa.Field) -> pa.Array:
    if field.name.startswith("slot_"):
        return lists_of(pc.struct_field(decisions, "slots"), field.name.removeprefix("slot_")).cast(field.type)
    if field.name.startswith("candidate_"):
        # A decision that lists no candidates has no such message; its lists are empty and its strings too.
        found = pc.struct_field(decisions, ["candidates", field.name.removeprefix("candidate_")])
    else:
        found = pc.struct_field(decisions, _FIELDS.get(field.name, field.name))
    found = _vectors(found) if field.type == _VECTOR else found.cast(field.type)
    return pc.fill_null(found, _nothing(field.type)) if found.null_count else found


def _nothing(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_list(kind):
        return pa.scalar([], kind)
    return pa.scalar("" if pa.types.is_string(kind) else b"" if pa.types.is_binary(kind) else 0, kind)


def _vectors(packed: pa.BinaryArray) -> pa.ListArray:
    """Packed little-endian float32 as lists of numbers, without a copy of them."""
    whole = pa.concat_arrays([packed])
    _, offsets, data = whole.buffers()
    ends = pa.Array.from_buffers(pa.int32(), len(whole) + 1, [None, offsets], offset=whole.offset)
    size = 0 if data is None else data.size // 4
    numbers = pa.Array.from_buffers(pa.float32(), size, [None, data if data is not None else pa.py_buffer(b"")])
    return pa.ListArray.from_arrays(pc.divide(ends, 4), numbers, type=_VECTOR, mask=whole.is_null() if whole.null_count else None)
