"""Deletion of units and of old events: what goes, and what stays so that the account still closes. Pure.

An erased event keeps its place (topic, partition, offset), kind, times, task and decision id, and loses everything that tells of the unit:
its id, its payload, what it did. It is quarantined as `erased`, so no join uses it, and its decision counts as expired.
"""

import polars as pl
import pyarrow as pa

from attribution.events import EVENT_COLUMNS

__all__ = ["DELETION_SCHEMA", "ERASED", "EXPIRED", "PERSONAL", "decisions_with", "erase", "erased_rows", "events_at"]

ERASED, EXPIRED = "erased", "expired"
# What an event loses.
PERSONAL = ("unit_id", "event_id", "name", "value", "slot", "action", "seen_slots", "seen_actions", "producer", "payload")
DELETION_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("unit_id", pa.string()),
        # Everything of the unit up to this event time goes, microseconds since the epoch.
        ("until_us", pa.int64()),
        ("requested_us", pa.int64()),
    ]
)


def erased_rows(rows: pl.DataFrame, deletions: pl.DataFrame, *, time: str = "event_time_us") -> pl.Series:
    """Which rows (tenant, unit_id and a time) a deletion covers, as booleans."""
    if deletions.is_empty():
        return pl.repeat(False, rows.height, eager=True, dtype=pl.Boolean)
    last = deletions.group_by("tenant", "unit_id").agg(pl.col("until_us").max())
    covered = rows.select("tenant", "unit_id", time).join(last, on=["tenant", "unit_id"], how="left", maintain_order="left")
    return covered.select(covered=(pl.col(time) <= pl.col("until_us")).fill_null(False))["covered"]


def erase(events: pl.DataFrame, deletions: pl.DataFrame) -> pl.DataFrame:
    """The events, with those that a deletion covers erased."""
    gone = erased_rows(events, deletions)
    if not gone.any():
        return events
    blank = {name: pl.when(gone).then(None).otherwise(pl.col(name)).cast(EVENT_COLUMNS[name]) for name in PERSONAL}
    return events.with_columns(**blank, fault=pl.when(gone).then(pl.lit(ERASED)).otherwise("fault"))


def events_at(places: pl.DataFrame) -> str:
    """The events at these places (topic, partition, offset), as a condition of a Delta table.

    The condition is kept in the table's log, so it must not name the unit.
    """
    grouped = places.group_by("topic", "partition", maintain_order=True).agg(pl.col("offset").unique().sort())
    return " OR ".join(
        f"(topic = '{topic}' AND partition = {number} AND offset IN ({', '.join(map(str, offsets))}))"
        for topic, number, offsets in grouped.iter_rows()
    )


def decisions_with(ids: pl.Series) -> str:
    """The rows of these decisions, as a condition of a Delta table."""
    literals = sorted(f"X'{one.hex()}'" for one in ids)
    return f"decision_id IN ({', '.join(literals)})"
