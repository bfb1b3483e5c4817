"""The observation: a decision joined with its impressions and rewards. Its Arrow schema is derived here, once, from the messages.

One row of the table `observations` is one revision of one decision; the latest revision of a decision is its truth. The columns of
the decision come from `events.proto` field by field (`decision_columns`), so a field added there is a column here. Lists named
`slot_*` are parallel, one entry a slot, top first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos import events_pb2

__all__ = ["DECISION_COLUMNS", "OBSERVATION_SCHEMA", "OUTCOME_STATUSES", "OUTCOME_TYPE", "STATUSES", "decision_row"]

# A row's status: `provisional` = a window is still open; `final` = all windows closed; `corrected` = changed after it was final.
STATUSES = ("provisional", "final", "corrected")
# An outcome's status: `missing` = no event came before its window closed and its default stands.
OUTCOME_STATUSES = ("missing", "provisional", "final", "corrected")

_SCALARS = {
    FieldDescriptor.TYPE_STRING: pa.string(),
    FieldDescriptor.TYPE_BYTES: pa.binary(),
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    FieldDescriptor.TYPE_DOUBLE: pa.float64(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_INT32: pa.int32(),
    # Delta has no unsigned integers, and a numerator goes up to 2^31, which int32 can't hold.
    FieldDescriptor.TYPE_UINT32: pa.int64(),
    FieldDescriptor.TYPE_ENUM: pa.int32(),
}
# Packed little-endian float32 on the wire, lists of numbers in the table.
_PACKED = ("context", "candidate_packed_features")
# Fields of Decision whose name is clearer in a table of decisions, or whose parts take a prefix.
_RENAMED = {"event_time_us": "decision_time_us", "slots": "slot", "candidates": "candidate"}


def _columns(descriptor: Descriptor | None, *, prefix: str = "", repeated: bool = False) -> list[pa.Field]:
    assert descriptor is not None
    fields: list[pa.Field] = []
    for field in descriptor.fields:
        name = prefix + (_RENAMED.get(field.name, field.name) if not prefix else field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            fields += _columns(field.message_type, prefix=f"{name}_", repeated=field.is_repeated)
        elif name in _PACKED:
            fields.append(pa.field(name, pa.list_(pa.float32())))
        else:
            scalar = _SCALARS[field.type]
            fields.append(pa.field(name, pa.list_(scalar) if repeated or field.is_repeated else scalar))
    return fields


DECISION_COLUMNS: tuple[pa.Field, ...] = tuple(_columns(events_pb2.Decision.DESCRIPTOR))

# A named outcome of a slot, or of the whole slate where `slot` is null. `value` is never null: a missing outcome has its default.
OUTCOME_TYPE = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("slot", pa.int32()),
        pa.field("value", pa.float64()),
        pa.field("status", pa.string()),
        pa.field("count", pa.int32()),
    ]
)

OBSERVATION_SCHEMA = pa.schema(
    [
        *DECISION_COLUMNS,
        # Smallest log-append time over the duplicates of the decision.
        pa.field("append_time_us", pa.int64()),
        # Treatment: was the slot seen, and when first (null = not seen).
        pa.field("slot_seen", pa.list_(pa.bool_())),
        pa.field("slot_seen_time_us", pa.list_(pa.int64())),
        # When the slate was shown, once an impression that counts, in order: a cached slate is shown again.
        pa.field("exposure_times_us", pa.list_(pa.int64())),
        # Scalar reward of each slot by the task's config; null = not seen (censored, not zero).
        pa.field("slot_reward", pa.list_(pa.float64())),
        # Scalar reward of the slate: sum of the seen slots' rewards and of the slate's own outcomes.
        pa.field("reward", pa.float64()),
        pa.field("outcomes", pa.list_(OUTCOME_TYPE)),
        # true = shown otherwise than decided (an item outside the slate, or in another slot): out of every estimate.
        pa.field("overridden", pa.bool_()),
        # false = a fallback that the decision log did not take: out of every estimate.
        pa.field("logged", pa.bool_()),
        # One of STATUSES; revisions of a decision count from 1.
        pa.field("status", pa.string()),
        pa.field("revision", pa.int32()),
        # Digest of the config by which outcomes and rewards were made (the decision's own is `config_digest`).
        pa.field("join_config_digest", pa.string()),
        # Commit metadata: the partition, the watermark at which the row was made, and the number of the commit within its partition.
        pa.field("partition", pa.int32()),
        pa.field("watermark_us", pa.int64()),
        pa.field("commit_seq", pa.int64()),
    ]
)


def decision_row(decision: events_pb2.Decision) -> dict[str, Any]:
    """A decision as the values of DECISION_COLUMNS. Unset optional numbers are null."""
    return _row(decision)


def _row(message: Any, *, prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        name = prefix + (_RENAMED.get(field.name, field.name) if not prefix else field.name)
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            row |= _slots_row(field.message_type, value, f"{name}_") if field.is_repeated else _row(value, prefix=f"{name}_")
        elif name in _PACKED:
            row[name] = np.frombuffer(value, dtype="<f4")
        elif field.is_repeated:
            row[name] = list(value)
        else:
            row[name] = None if field.has_presence and not message.HasField(field.name) else value
    return row


def _slots_row(descriptor: Descriptor, messages: Any, prefix: str) -> Mapping[str, Any]:
    def value(message: Any, field: FieldDescriptor) -> Any:
        return None if field.has_presence and not message.HasField(field.name) else getattr(message, field.name)

    return {f"{prefix}{field.name}": [value(m, field) for m in messages] for field in descriptor.fields}
