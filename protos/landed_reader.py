"""Reads the landed events that lie beside an observations table: how many decisions should have a row, and how many have none.

A decision whose windows are closed has a row, or is lost: erased, expired, quarantined, or its record cannot be read.
"""

from pathlib import Path
from typing import NamedTuple

import deltalake
import pyarrow as pa
import pyarrow.compute as pc

from protos.delta_tables import dataset_of

__all__ = ["EVENTS", "LandedAccount", "landed_account"]

# Name of the table, beside that of the observations.
EVENTS = "events"
_COLUMNS = ["decision_id", "kind"]


class LandedAccount(NamedTuple):
    """Decisions that landed, records of the decision log that cannot be read among them; and those of them that have no row."""

    logged: int
    lost: int


def landed_account(observations: Path | str, *, task: str, after_us: int, until_us: int, joined: pa.ChunkedArray) -> LandedAccount | None:
    """The account of a task's decisions with `after_us` < event time <= `until_us`, microseconds since the epoch; None without events.

    `joined`: decision ids that have a row, a superset of those in the span. A record that cannot be read has no task and no event time:
    it counts for every task, at the time when the log took it.
    """
    table = f"{str(observations).rstrip('/').rpartition('/')[0] or '.'}/{EVENTS}"
    if not deltalake.DeltaTable.is_deltatable(table):
        return None
    # Delta rewrites a file (compaction, deletion) with view types, which Arrow's pruning by statistics can't compare: the casts can.
    kind, topic, of_task = (pc.field(name).cast(pa.string()) for name in ("kind", "topic", "task"))
    decided = (kind == "decision") & (of_task == task) & _within("event_time_us", after_us, until_us)
    unread = (kind == "undecodable") & (topic == "decisions") & _within("append_time_us", after_us, until_us)
    rows = dataset_of(deltalake.DeltaTable(table)).to_table(columns=_COLUMNS, filter=decided | unread)
    readable = pc.equal(rows["kind"].cast(pa.string()), "decision")
    ids = pc.unique(rows.filter(readable)["decision_id"].cast(pa.binary()))
    unreadable = rows.num_rows - pc.sum(readable).as_py() if rows.num_rows else 0
    found = pc.sum(pc.is_in(ids, value_set=joined.combine_chunks().cast(pa.binary()))).as_py() or 0
    return LandedAccount(len(ids) + unreadable, len(ids) - found + unreadable)


def _within(column: str, after_us: int, until_us: int) -> pc.Expression:
    return (pc.field(column) > after_us) & (pc.field(column) <= until_us)
