"""Raw records become a table of events: keys as columns, the message itself beside them. Pure: bytes in, columns out.

A record that can't be read, or lacks what its kind needs, is a row as well: `fault` says why, and nothing else is expected of it.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from google.protobuf.message import DecodeError

from protos import events_pb2
from protos.task import DEFAULT_TENANT

__all__ = ["DAMAGE", "EVENT_SCHEMA", "UNDECODABLE", "Raw", "decode", "empty_events"]

# Kinds beside those of protos.events_pb2.Event: bytes of a log that are no record, and a record that is no Event.
DAMAGE = "damage"
UNDECODABLE = "undecodable"
_DECISION_ID_BYTES = 16


class Raw(NamedTuple):
    """One record of a topic, as fetched.

    `append_time_us` is the transport's own; 0 = take the one that the log wrote into the Event. `damage` is the reason why the bytes
    from `offset` on are no record; then there is no payload.
    """

    topic: str
    partition: int
    offset: int
    payload: bytes
    append_time_us: int = 0
    damage: str = ""


_SCHEMA: Mapping[str, Any] = {
    "topic": pl.String,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "append_time_us": pl.Int64,
    "kind": pl.String,
    "fault": pl.String,
    "tenant": pl.String,
    "task": pl.String,
    "unit_id": pl.String,
    "decision_id": pl.Binary,
    "event_id": pl.String,
    "event_time_us": pl.Int64,
    "name": pl.String,
    "value": pl.Float64,
    "slot": pl.Int32,
    "action": pl.String,
    "seen_slots": pl.List(pl.Int32),
    "seen_actions": pl.List(pl.String),
    "source": pl.String,
    "final": pl.Boolean,
    "producer": pl.String,
    "payload": pl.Binary,
}
# Columns of the table `events`. Null = the kind has no such field, or (value, slot) the event did not give it.
EVENT_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        # Position in (topic, partition): bytes in an embedded log, messages in Kafka.
        ("offset", pa.int64()),
        ("append_time_us", pa.int64()),
        ("kind", pa.string()),
        # Why the event can't be used, whatever the config; null = sound.
        ("fault", pa.string()),
        ("tenant", pa.string()),
        ("task", pa.string()),
        ("unit_id", pa.string()),
        ("decision_id", pa.binary()),
        ("event_id", pa.string()),
        ("event_time_us", pa.int64()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("slot", pa.int32()),
        ("action", pa.string()),
        ("seen_slots", pa.list_(pa.int32())),
        ("seen_actions", pa.list_(pa.string())),
        ("source", pa.string()),
        ("final", pa.bool_()),
        ("producer", pa.string()),
        # The record as it came: a protos.events_pb2.Event.
        ("payload", pa.binary()),
    ]
)

_Getter = Callable[[Any], Any]
_KEYS = ("tenant", "task", "unit_id", "decision_id", "event_time_us")


def _optional(name: str) -> _Getter:
    return lambda message: getattr(message, name) if message.HasField(name) else None


def _fields(*names: str, **others: _Getter) -> dict[str, _Getter]:
    return {name: attrgetter(name) for name in names} | others


_GETTERS: Mapping[str, Mapping[str, _Getter]] = {
    "decision": _fields(*_KEYS, fault=lambda decision: _decision_fault(decision)),
    "impression": _fields(
        *_KEYS,
        "event_id",
        "producer",
        seen=attrgetter("seen"),
    ),
    "reward": _fields(*_KEYS, "event_id", "name", "action", "producer", value=_optional("value"), slot=_optional("slot")),
    "signal": _fields("tenant", "unit_id", "event_time_us", "event_id", "name", "producer", value=_optional("value")),
    "heartbeat": _fields(
        "source",
        "final",
        "producer",
        # The time of a final heartbeat says nothing: nothing follows.
        event_time_us=lambda heartbeat: None if heartbeat.final else heartbeat.event_time_us,
        speaks_for=attrgetter("partition"),
    ),
}


def empty_events() -> pl.DataFrame:
    """No events, with the columns of EVENT_SCHEMA."""
    return pl.DataFrame(schema=_SCHEMA)


def decode(raws: Iterable[Raw]) -> pl.DataFrame:
    """The records as events with the columns of EVENT_SCHEMA, ordered by topic, partition and offset. Raises nothing: see `fault`."""
    parts: dict[str, tuple[list[Raw], list[Any], list[int]]] = {}
    for raw in raws:
        kind, message, append_time_us = _parse(raw)
        kept = parts.setdefault(kind, ([], [], []))
        kept[0].append(raw)
        kept[1].append(message)
        kept[2].append(append_time_us)
    frames = [_frame(kind, *part) for kind, part in parts.items()]
    if not frames:
        return empty_events()
    events = pl.concat(frames, how="diagonal")
    return events.with_columns(_missing(events)).select(_sound_columns()).sort("topic", "partition", "offset")


def _parse(raw: Raw) -> tuple[str, Any, int]:
    if raw.damage:
        return DAMAGE, None, 0
    try:
        event = events_pb2.Event.FromString(raw.payload)
    except DecodeError:
        return UNDECODABLE, None, raw.append_time_us
    kind = event.WhichOneof("kind")
    if kind is None:
        return UNDECODABLE, None, raw.append_time_us
    return kind, getattr(event, kind), raw.append_time_us or event.append_time_us


def _frame(kind: str, raws: Sequence[Raw], messages: Sequence[Any], append_times: Sequence[int]) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "topic": [raw.topic for raw in raws],
        "partition": [raw.partition for raw in raws],
        "offset": [raw.offset for raw in raws],
        "append_time_us": append_times,
        "payload": [raw.payload for raw in raws],
    }
    if kind == DAMAGE:
        columns["fault"] = [raw.damage for raw in raws]
    elif kind == UNDECODABLE:
        columns["fault"] = [UNDECODABLE] * len(raws)
    columns |= {name: list(map(getter, messages)) for name, getter in _GETTERS.get(kind, {}).items()}
    if "seen" in columns:
        columns |= _seen_columns(columns.pop("seen"))
    schema = {name: dtype for name, dtype in _wide_schema().items() if name in columns}
    return pl.DataFrame(columns, schema=schema).with_columns(kind=pl.lit(kind))


def _seen_columns(seen: Sequence[Sequence[Any]]) -> dict[str, pl.Series]:
    """Slots and actions that impressions name, built flat: a list of lists would be built list by list."""
    offsets = pa.array(np.concatenate([[0], np.cumsum([len(s) for s in seen])]).astype(np.int32))
    slots = pa.array([slot.slot for slot in itertools.chain.from_iterable(seen)], pa.int64())
    actions = pa.array([slot.action for slot in itertools.chain.from_iterable(seen)], pa.string())
    lists = {"seen_slots": slots, "seen_actions": actions}
    return {name: pl.Series(pa.ListArray.from_arrays(offsets, flat)) for name, flat in lists.items()}


def _wide_schema() -> dict[str, Any]:
    # Slots are uint32 on the wire: they are narrowed in `_sound_columns`, where a number beyond int32 becomes one that no slate has.
    # A heartbeat's own partition is compared with the one that it came in, and then known.
    return {**_SCHEMA, "slot": pl.Int64, "seen_slots": pl.List(pl.Int64), "speaks_for": pl.Int32}


def _sound_columns() -> list[pl.Expr]:
    most = 2**31 - 1
    narrow = {
        "slot": pl.col("slot").clip(0, most).cast(pl.Int32),
        "seen_slots": pl.col("seen_slots").list.eval(pl.element().clip(0, most)).cast(pl.List(pl.Int32)),
        "tenant": pl.when(pl.col("tenant") == "").then(pl.lit(DEFAULT_TENANT)).otherwise("tenant").alias("tenant"),
    }
    return [narrow.get(name, pl.col(name)) for name in _SCHEMA]


def _missing(events: pl.DataFrame) -> list[pl.Expr]:
    """The columns that no kind of this batch has, and `fault`: the first thing that an event lacks."""
    wide = _wide_schema()
    absent = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in wide.items() if name not in events.columns]
    present = set(events.columns)
    faults = [pl.when(condition).then(pl.lit(fault)) for fault, needs, condition in _FAULTS if needs <= present]
    own = [pl.col("fault")] if "fault" in present else []
    return [*(column for column in absent if column.meta.output_name() != "fault"), pl.coalesce([*own, *faults]).alias("fault")]


def _kind(*kinds: str) -> pl.Expr:
    return pl.col("kind").is_in(kinds)


# (reason, columns it looks at, condition): the first that holds is the event's fault.
_FAULTS: Sequence[tuple[str, set[str], pl.Expr]] = (
    ("append_time_missing", set(), ~_kind(DAMAGE, UNDECODABLE) & (pl.col("append_time_us") <= 0)),
    ("event_time_missing", {"event_time_us"}, pl.col("event_time_us") <= 0),
    ("decision_id_missing", {"decision_id"}, pl.col("decision_id").bin.size() == 0),
    ("decision_id_malformed", {"decision_id"}, pl.col("decision_id").bin.size() != _DECISION_ID_BYTES),
    ("unit_id_missing", {"unit_id"}, pl.col("unit_id") == ""),
    ("event_id_missing", {"event_id"}, pl.col("event_id") == ""),
    ("name_missing", {"name"}, pl.col("name") == ""),
    ("value_missing", {"value", "name"}, _kind("reward") & pl.col("value").is_null()),
    ("value_not_finite", {"value"}, ~pl.col("value").is_finite()),
    ("heartbeat_elsewhere", {"speaks_for"}, pl.col("speaks_for") != pl.col("partition")),
)


def _decision_fault(decision: Any) -> str | None:
    """What a decision lacks beyond its keys."""
    if not decision.slots:
        return "slate_empty"
    if len(decision.context) % 4 or len(decision.candidates.packed_features) % 4:
        return "features_malformed"
    return None
