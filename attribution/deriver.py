"""The second hop: landed events in, committed observations out, and the way back to the same state after a crash."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from attribution.admission import judge
from attribution.events import EVENT_SCHEMA, empty_events
from attribution.join import JoinState, empty_state, rebuild, step_judged, without
from attribution.positions import LaneMarks, derived_positions, read_derived, read_marks
from attribution.settings import JoinConfig
from attribution.sources import Offsets, Partition
from attribution.tables import PositionedTable, text
from attribution.watermarks import FINAL_US, advance, partition_watermark
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["Deriver", "no_point", "underived_events"]


@dataclasses.dataclass(frozen=True)
class _Lane:
    """One partition: its state, its marks, and rows that are still to be written."""

    state: JoinState
    marks: LaneMarks
    rows: pa.Table


def no_point(name: str) -> None:
    """Stands where a test would stop the worker."""


class Deriver:
    """Derives every partition of a source into one table of observations.

    `landed` is the table of events that a crash is recovered from; None = begin from nothing (a backfill). `at_point` is called with the
    name of each point between two effects ("stepped", "derived"), where a test may raise.
    """

    def __init__(
        self,
        table: PositionedTable,
        *,
        partitions: Sequence[Partition],
        config: JoinConfig,
        landed: PositionedTable | None = None,
        at_point: Callable[[str], None] = no_point,
    ) -> None:
        self._table, self._config, self._landed, self._at_point = table, config, landed, at_point
        self.offsets: Offsets = {}
        self._lanes: dict[int, _Lane] = {}
        self.follow(partitions)

    def follow(self, partitions: Sequence[Partition]) -> None:
        """Derives these partitions from now on: those it had go on, those that are new are recovered from the tables."""
        numbers = sorted({p.number for p in partitions})
        new = [p for p in partitions if p.number not in self._lanes]
        kept = {p: offset for p, offset in self.offsets.items() if p in partitions and p not in new}
        self.offsets = {**kept, **read_derived(self._table.position, new)}
        self._lanes = {number: self._lanes.get(number) or self._recovered(number) for number in numbers}

    @property
    def watermarks_us(self) -> Mapping[int, int]:
        """Watermark of each partition, microseconds since the epoch."""
        return {number: partition_watermark(lane.marks.watermarks) for number, lane in self._lanes.items()}

    @property
    def final(self) -> bool:
        """True = every source of every partition has ended."""
        return bool(self._lanes) and all(watermark == FINAL_US for watermark in self.watermarks_us.values())

    def derive(self, events: pl.DataFrame, *, offsets: Offsets) -> int:
        """Takes in the events up to `offsets` and commits what follows from them; the number of rows. Raises Fenced, TableError."""
        stepped = {number: self._stepped(number, lane, events) for number, lane in self._lanes.items()}
        self._at_point("stepped")
        rows = pa.concat_tables([lane.rows for lane in stepped.values()])
        self._table.append(rows, positions=derived_positions(offsets, {number: lane.marks for number, lane in stepped.items()}))
        self._lanes = {number: dataclasses.replace(lane, rows=lane.rows.slice(0, 0)) for number, lane in stepped.items()}
        self.offsets = offsets
        self._at_point("derived")
        return int(rows.num_rows)

    def erase(self, deletions: pl.DataFrame) -> None:
        """Forgets what deletions cover of the open windows."""
        self._lanes = {number: dataclasses.replace(lane, state=without(lane.state, deletions)) for number, lane in self._lanes.items()}

    def _stepped(self, number: int, lane: _Lane, events: pl.DataFrame) -> _Lane:
        mine = events.filter(pl.col("partition") == number)
        judged = judge(mine, config=self._config)
        watermarks = advance(lane.marks.watermarks, judged, grace_us=self._config.grace_us)
        watermark_us = partition_watermark(watermarks)
        state, rows = step_judged(lane.state, judged, watermark_us=watermark_us, config=self._config)
        commits = lane.marks.commits + (rows.num_rows > 0 or lane.rows.num_rows > 0)
        stamped = _stamped(rows, partition=number, watermark_us=watermark_us, commit_seq=commits)
        return _Lane(state, LaneMarks(watermarks, commits, state.counts), pa.concat_tables([lane.rows, stamped]))

    def _recovered(self, number: int) -> _Lane:
        landed = self._landed
        marks = read_marks(self._table.position, number)
        nothing = OBSERVATION_SCHEMA.empty_table()
        if landed is None or not self.offsets:
            return _Lane(empty_state(), marks, nothing)
        watermark_us = partition_watermark(marks.watermarks)
        since_us = watermark_us - self._config.memory_us
        events = _derived_events(landed, number=number, offsets=self.offsets, since_us=since_us)
        written = self._written(number, since_us=since_us)
        state, rows = rebuild(events, revisions=written, counts=marks.counts, watermark_us=watermark_us, config=self._config)
        return _Lane(state, marks, _stamped(rows, partition=number, watermark_us=watermark_us, commit_seq=marks.commits + 1))

    def _written(self, number: int, *, since_us: int) -> dict[bytes, int]:
        """Newest revision of each decision that may still be held."""
        recent = (pc.field("partition") == number) & (pc.field("decision_time_us") > since_us)
        written = self._table.read(columns=["decision_id", "revision"], where=recent)
        return dict(written.group_by("decision_id").agg(pl.col("revision").max()).iter_rows())


def underived_events(landed: PositionedTable, *, landed_offsets: Offsets, derived: Offsets) -> pl.DataFrame:
    """Events that have landed and are not derived: what a crash between the two hops leaves."""
    behind = [p for p, offset in landed_offsets.items() if derived.get(p, -1) < offset]
    if not behind:
        return empty_events()
    where = _any([_of(p) & (pc.field("offset") >= derived.get(p, 0)) for p in behind])
    return landed.read(columns=EVENT_SCHEMA.names, where=where).sort("topic", "partition", "offset")


def _derived_events(landed: PositionedTable, *, number: int, offsets: Offsets, since_us: int) -> pl.DataFrame:
    """Events below the derived offsets of a partition that can still matter."""
    mine = [_of(p) & (pc.field("offset") < offset) for p, offset in offsets.items() if p.number == number]
    if not mine:
        return empty_events()
    where = _any(mine) & (pc.field("event_time_us") > since_us) & text("kind").isin(["decision", "impression", "reward"])
    return landed.read(columns=EVENT_SCHEMA.names, where=where).sort("topic", "partition", "offset")


def _of(partition: Partition) -> pc.Expression:
    return (text("topic") == partition.topic) & (pc.field("partition") == partition.number)


def _any(conditions: Sequence[pc.Expression]) -> pc.Expression:
    return functools.reduce(operator.or_, conditions)


def _stamped(rows: pa.Table, *, partition: int, watermark_us: int, commit_seq: int) -> pa.Table:
    """The rows with the metadata of their commit, as OBSERVATION_SCHEMA."""
    count = rows.num_rows
    rows = rows.append_column("partition", pa.array([partition] * count, pa.int32()))
    rows = rows.append_column("watermark_us", pa.array([watermark_us] * count, pa.int64()))
    rows = rows.append_column("commit_seq", pa.array([commit_seq] * count, pa.int64()))
    return rows.select(OBSERVATION_SCHEMA.names).cast(OBSERVATION_SCHEMA)
