"""Raw records, and the table that they become (`decode`): keys as columns, the message itself beside them. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

__all__ = ["DAMAGE", "EVENT_COLUMNS", "EVENT_SCHEMA", "UNDECODABLE", "Raw", "Raws", "empty_events"]

# Kinds beside those of protos.events_pb2.Event: bytes of a log that are no record, and a record that is no Event.
DAMAGE = "damage"
UNDECODABLE = "undecodable"


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


class Raws(NamedTuple):
    """Many records by column: parallel lists (or columns), and the reasons of damage by row (few have one)."""

    topics: Sequence[str] | pl.Series
    partitions: Sequence[int] | pl.Series
    offsets: Sequence[int] | pl.Series
    payloads: Sequence[bytes] | pa.BinaryArray
    append_times_us: Sequence[int] | pl.Series
    damages: Mapping[int, str]

    @classmethod
    def of(cls, raws: Iterable[Raw]) -> "Raws":
        """Records that came one by one."""
        many = list(raws)
        return cls(
            topics=[raw.topic for raw in many],
            partitions=[raw.partition for raw in many],
            offsets=[raw.offset for raw in many],
            payloads=[raw.payload for raw in many],
            append_times_us=[raw.append_time_us for raw in many],
            damages={row: raw.damage for row, raw in enumerate(many) if raw.damage},
        )


EVENT_COLUMNS: Mapping[str, Any] = {
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


def empty_events() -> pl.DataFrame:
    """No events, with the columns of EVENT_SCHEMA."""
    return pl.DataFrame(schema=EVENT_COLUMNS)
