"""Raw records become a table of events: keys as columns, the message itself beside them. Pure: bytes in, columns out.

A record that can't be read, or lacks what its kind needs, is a row as well: `fault` says why, and nothing else is expected of it. A value
is one Event; or one behind the header of a schema registry (Confluent's framing); or an Arrow IPC stream of many (`envelope`).
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from attribution.envelope import unpacked
from attribution.events import DAMAGE, EVENT_COLUMNS, UNDECODABLE, Raw, Raws
from attribution.wire import KINDS, key_columns, lists_of
from protos import events_pb2
from protos.task import DEFAULT_TENANT

__all__ = ["decode"]

_DECISION_ID_BYTES = 16
_FIELDS = {kind: {field.name for field in getattr(events_pb2, kind.capitalize()).DESCRIPTOR.fields} for kind in KINDS}
_ID_COLUMNS = ("tenant", "task", "unit_id", "decision_id", "event_time_us", "event_id", "name", "value", "slot", "action", "producer")


def decode(raws: Sequence[Raw] | Raws) -> pl.DataFrame:
    """The records as events with the columns of EVENT_SCHEMA, in the order in which they came. Raises nothing: see `fault`."""
    records = unpacked(raws if isinstance(raws, Raws) else Raws.of(raws))
    batch = key_columns(records.payloads)
    events = pl.DataFrame(_places(records)).hstack(_fields(batch))
    return events.with_columns(_faults(records, batch)).select(_sound_columns())


def _places(records: Raws) -> dict[str, pl.Series]:
    """Where each event comes from, and itself."""
    columns = {
        "topic": records.topics,
        "partition": records.partitions,
        "offset": records.offsets,
        "taken_us": records.append_times_us,
        "payload": records.payloads,
    }
    types = {**EVENT_COLUMNS, "taken_us": pl.Int64}
    return {name: pl.Series(name, values, dtype=types[name]) for name, values in columns.items()}


def _fields(batch: pa.RecordBatch) -> pl.DataFrame:
    """The fields of all kinds side by side: what a kind does not have is null."""
    found = pl.DataFrame([pl.Series(kind, batch[kind]) for kind in KINDS] + [pl.Series("logged_us", batch["append_time_us"])])
    kind = pl.coalesce(pl.when(pl.col(kind).is_not_null()).then(pl.lit(kind)) for kind in KINDS)
    final = pl.col("heartbeat").struct.field("final")
    fields = {name: pl.coalesce(_having(name)) for name in _ID_COLUMNS}
    # The time of a final heartbeat says nothing: nothing follows.
    fields["event_time_us"] = pl.when(final.fill_null(False)).then(None).otherwise(fields["event_time_us"])
    of_heartbeat = {name: pl.col("heartbeat").struct.field(name) for name in ("source", "final")}
    beats = {**of_heartbeat, "speaks_for": pl.col("heartbeat").struct.field("partition")}
    return found.select("logged_us", kind=kind, **fields, **beats).with_columns(_seen(batch))


def _having(name: str) -> list[pl.Expr]:
    """The field in each kind that has it."""
    return [pl.col(kind).struct.field(name) for kind, fields in _FIELDS.items() if name in fields]


def _seen(batch: pa.RecordBatch) -> list[pl.Series]:
    """Slots and actions that impressions name."""
    seen = pc.struct_field(batch["impression"], "seen")
    return [pl.Series(f"seen_{name}s", lists_of(seen, name)) for name in ("slot", "action")]


def _sound_columns() -> list[pl.Expr]:
    # Slots are uint32 on the wire: a number beyond int32 becomes one that no slate has.
    most = 2**31 - 1
    narrow = {
        "slot": pl.col("slot").clip(0, most).cast(pl.Int32),
        "seen_slots": pl.col("seen_slots").list.eval(pl.element().clip(0, most).cast(pl.Int32)),
        "tenant": pl.when(pl.col("tenant") == "").then(pl.lit(DEFAULT_TENANT)).otherwise("tenant").alias("tenant"),
    }
    return [narrow.get(name, pl.col(name)) for name in EVENT_COLUMNS]


def _faults(records: Raws, batch: pa.RecordBatch) -> list[pl.Expr]:
    """`kind`, `append_time_us` and `fault`: the first thing that an event lacks."""
    damages = pl.Series("damage", [None] * len(records.payloads), dtype=pl.String)
    if records.damages:
        damages = damages.scatter(list(records.damages), list(records.damages.values()))
    damaged, lost = pl.lit(damages).is_not_null(), pl.col("kind").is_null()
    kind = pl.when(damaged).then(pl.lit(DAMAGE)).when(lost).then(pl.lit(UNDECODABLE)).otherwise("kind")
    taken = pl.when(pl.col("taken_us") > 0).then("taken_us").otherwise(pl.when(~lost).then("logged_us").otherwise(0))
    undecodable = pl.when(lost).then(pl.lit(UNDECODABLE))
    unlogged = pl.when(~lost & (taken <= 0)).then(pl.lit("append_time_missing"))
    reasons = [pl.when(condition).then(pl.lit(reason)) for reason, condition in (*_FAULTS, *_of_decisions(batch))]
    fault = pl.coalesce(pl.lit(damages), undecodable, unlogged, *reasons)
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


def _of_decisions(batch: pa.RecordBatch) -> Sequence[tuple[str, pl.Expr]]:
    """What decisions lack beyond their keys."""
    decision = batch["decision"]
    candidates = pc.struct_field(decision, "candidates")
    slots = pl.Series(pc.list_value_length(pc.struct_field(decision, "slots")))
    packed = [pc.struct_field(decision, "context"), pc.struct_field(candidates, "packed_features")]
    ragged = [pl.lit(pl.Series(pc.binary_length(column)) % 4 != 0).fill_null(False) for column in packed]
    return (("slate_empty", pl.lit(slots == 0)), ("features_malformed", ragged[0] | ragged[1]))
