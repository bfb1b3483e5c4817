"""Raw records become a table of events: keys as columns, the message itself beside them. Pure: bytes in, columns out.

A record that can't be read, or lacks what its kind needs, is a row as well: `fault` says why, and nothing else is expected of it. A value
is one Event; or one behind the header of a schema registry (Confluent's framing); or an Arrow IPC stream of many (`envelope`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from attribution.envelope import unpacked
from attribution.events import DAMAGE, EVENT_COLUMNS, UNDECODABLE, Raw, Raws
from attribution.wire import Part, key_parts, lists_of
from protos.task import DEFAULT_TENANT

__all__ = ["decode"]

Rows = np.ndarray[Any, np.dtype[np.int64]]

_DECISION_ID_BYTES = 16
_ID_COLUMNS = ("tenant", "task", "unit_id", "decision_id", "event_time_us", "event_id", "name", "value", "slot", "action", "producer")
_ON_THE_WIRE = {"slot": pl.UInt32, "seen_slots": pl.List(pl.UInt32)}
# What is taken from a body; `logged_us`, `speaks_for` and `unsound` only for the faults.
_FIELDS = {
    **{name: EVENT_COLUMNS[name] for name in ("kind", *_ID_COLUMNS, "source", "final", "seen_slots", "seen_actions")},
    **_ON_THE_WIRE,
    "logged_us": pl.Int64,
    "speaks_for": pl.Int32,
    "unsound": pl.String,
}


def decode(raws: Sequence[Raw] | Raws) -> pl.DataFrame:
    """The records as events with the columns of EVENT_SCHEMA, kind by kind, each in the order in which they came.

    Raises nothing: see `fault`.
    """
    records = unpacked(raws if isinstance(raws, Raws) else Raws.of(raws))
    fields, rows = _fields(records.payloads)
    places = _places(records)
    # What is read kind by kind stays so: to bring all fields of all kinds back into one order costs as much as reading them.
    events = (places if _ascending(rows) else places[rows]).hstack(fields)
    return events.with_columns(_faults()).select(_sound_columns())


def _places(records: Raws) -> pl.DataFrame:
    """Where each event comes from, itself, and the reason of its damage."""
    columns = {
        "topic": records.topics,
        "partition": records.partitions,
        "offset": records.offsets,
        "taken_us": records.append_times_us,
        "payload": records.payloads,
    }
    types = {**EVENT_COLUMNS, "taken_us": pl.Int64}
    damages = pl.repeat(None, len(records.payloads), dtype=pl.String, eager=True).alias("damage")
    if records.damages:
        damages = damages.scatter(list(records.damages), list(records.damages.values()))
    return pl.DataFrame([*(pl.Series(name, values, dtype=types[name]) for name, values in columns.items()), damages])


def _fields(payloads: pa.BinaryArray) -> tuple[pl.DataFrame, Rows]:
    """The fields of all kinds side by side, kind by kind, and which payload each row is; what a kind does not have is null."""
    parts = key_parts(payloads)
    frames = [_of_part(part) for part in parts]
    rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
    lost = np.setdiff1d(np.arange(len(payloads)), rows, assume_unique=True) if len(rows) < len(payloads) else rows[:0]
    return pl.concat([*frames, pl.DataFrame(schema=_FIELDS).clear(lost.size)]), np.concatenate([rows, lost])


def _ascending(rows: Rows) -> bool:
    return bool((rows[1:] > rows[:-1]).all())


def _of_part(part: Part) -> pl.DataFrame:
    """The fields of one kind, as _FIELDS."""
    names = {field.name for field in part.bodies.type}
    found = {name: pl.Series(part.bodies.field(name)) for name in _FIELDS if name in names and name not in ("kind", "speaks_for")}
    found |= {"kind": pl.repeat(part.kind, part.rows.size, eager=True, dtype=pl.String), "logged_us": pl.Series(part.append_time_us)}
    if part.kind == "heartbeat":
        # The time of a final heartbeat says nothing: nothing follows.
        time = pl.Series(part.bodies.field("event_time_us")).to_frame("t")
        found["event_time_us"] = time.select(pl.when(~found["final"]).then("t"))["t"]
        found["speaks_for"] = pl.Series(part.bodies.field("partition"))
    if part.kind == "impression":
        seen = part.bodies.field("seen")
        found |= {f"seen_{name}s": pl.Series(lists_of(seen, name)) for name in ("slot", "action")}
    if part.kind == "decision":
        found["unsound"] = _unsound(part.bodies)
    lacking = {name: pl.lit(None, dtype=kind).alias(name) for name, kind in _FIELDS.items() if name not in found}
    return pl.DataFrame(found).with_columns(**lacking).select([pl.col(name).cast(kind) for name, kind in _FIELDS.items()])


def _unsound(decisions: pa.StructArray) -> pl.Series:
    """What decisions lack beyond their keys."""
    slots = pl.Series(pc.list_value_length(decisions.field("slots")))
    packed = [pc.struct_field(decisions, "context"), pc.struct_field(decisions, ["candidates", "packed_features"])]
    ragged = [pl.Series(pc.binary_length(column)).fill_null(0) % 4 != 0 for column in packed]
    found = pl.DataFrame({"slots": slots, "ragged": ragged[0] | ragged[1]})
    reason = pl.when(pl.col("slots") == 0).then(pl.lit("slate_empty")).when("ragged").then(pl.lit("features_malformed"))
    return found.select(reason=reason)["reason"]


def _sound_columns() -> list[pl.Expr]:
    # Slots are uint32 on the wire: a number beyond int32 becomes one that no slate has.
    most = 2**31 - 1
    narrow = {
        "slot": pl.col("slot").clip(0, most).cast(pl.Int32),
        "seen_slots": pl.col("seen_slots").list.eval(pl.element().clip(0, most).cast(pl.Int32)),
        "tenant": pl.when(pl.col("tenant") == "").then(pl.lit(DEFAULT_TENANT)).otherwise("tenant").alias("tenant"),
    }
    return [narrow.get(name, pl.col(name)) for name in EVENT_COLUMNS]


def _faults() -> list[pl.Expr]:
    """`kind`, `append_time_us` and `fault`: the first thing that an event lacks."""
    damaged, lost = pl.col("damage").is_not_null(), pl.col("kind").is_null()
    kind = pl.when(damaged).then(pl.lit(DAMAGE)).when(lost).then(pl.lit(UNDECODABLE)).otherwise("kind")
    taken = pl.when(pl.col("taken_us") > 0).then("taken_us").otherwise(pl.when(~lost).then("logged_us").otherwise(0))
    undecodable = pl.when(lost).then(pl.lit(UNDECODABLE))
    unlogged = pl.when(~lost & (taken <= 0)).then(pl.lit("append_time_missing"))
    reasons = [pl.when(condition).then(pl.lit(reason)) for reason, condition in _FAULTS]
    fault = pl.coalesce("damage", undecodable, unlogged, *reasons, "unsound")
    return [kind.alias("kind"), taken.alias("append_time_us"), fault.alias("fault")]


# (reason, condition): the first that holds is the event's fault. A condition on a field that the kind has not is null.
_FAULTS: Sequence[tuple[str, pl.Expr]] = (
    ("event_time_missing", pl.col("event_time_us") <= 0),
    # A reward may name its unit and action instead: whether it does is the join's to say.
    ("decision_id_missing", (pl.col("decision_id").bin.size() == 0) & (pl.col("kind") != "reward")),
    ("decision_id_missing", (pl.col("decision_id").bin.size() == 0) & (pl.col("action") == "")),
    ("decision_id_malformed", ~pl.col("decision_id").bin.size().is_in([0, _DECISION_ID_BYTES])),
    ("unit_id_missing", pl.col("unit_id") == ""),
    ("event_id_missing", pl.col("event_id") == ""),
    ("name_missing", pl.col("name") == ""),
    ("value_missing", (pl.col("kind") == "reward") & pl.col("value").is_null()),
    ("value_not_finite", ~pl.col("value").is_finite()),
    ("heartbeat_elsewhere", pl.col("speaks_for") != pl.col("partition")),
)
