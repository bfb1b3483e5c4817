"""The second hop: landed events in, committed observations out, and the way back to the same state after a crash."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from attribution.admission import judge
from attribution.events import EVENT_SCHEMA, empty_events
from attribution.freshness import commit_metadata, reward_times
from attribution.join import JoinState, empty_state, rebuild, step_judged, without
from attribution.join_state import merged, of_partitions
from attribution.positions import LaneMarks, derived_positions, read_derived, read_marks
from attribution.settings import JoinConfig
from attribution.sources import Offsets, Partition
from attribution.tables import PositionedTable, text
from attribution.tally import of_partition
from attribution.watermarks import FINAL_US, advance_all, partition_watermark
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["Deriver", "Written", "no_point", "underived_events"]

_NO_ROWS = OBSERVATION_SCHEMA.empty_table()


class Written(NamedTuple):
    """What a commit of observations holds: revisions, and how many of them are of slates that were shown otherwise than decided."""

    rows: int
    overridden: int


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
        self._state: JoinState = empty_state()
        self._marks: dict[int, LaneMarks] = {}
        # Rows of a recovery that are still to be written.
        self._rows: pa.Table = _NO_ROWS
        self.follow(partitions)

    def follow(self, partitions: Sequence[Partition]) -> None:
        """Derives these partitions from now on: those it had go on, those that are new are recovered from the tables."""
        numbers = sorted({p.number for p in partitions})
        new = [p for p in partitions if p.number not in self._marks]
        kept = {p: offset for p, offset in self.offsets.items() if p in partitions and p not in new}
        self.offsets = {**kept, **read_derived(self._table.position, new)}
        if lost := self._marks.keys() - numbers:
            self._marks = {number: marks for number, marks in self._marks.items() if number not in lost}
            self._state = of_partitions(self._state, self._marks.keys())
            self._rows = self._rows.filter(pc.is_in(self._rows["partition"], pa.array(list(self._marks), pa.int32())))
        for number in sorted({p.number for p in new}):
            self._recover(number)

    @property
    def watermarks_us(self) -> Mapping[int, int]:
        """Watermark of each partition, microseconds since the epoch."""
        return {number: partition_watermark(marks.watermarks) for number, marks in self._marks.items()}

    @property
    def counts(self) -> Mapping[str, int]:
        """Feedback of these partitions by what it counted as."""
        named = [marks.counts for marks in self._marks.values()]
        return {name: sum(counts.get(name, 0) for counts in named) for counts in named for name in counts}

    @property
    def final(self) -> bool:
        """True = every source of every partition has ended."""
        return bool(self._marks) and all(watermark == FINAL_US for watermark in self.watermarks_us.values())

    def derive(self, events: pl.DataFrame, *, offsets: Offsets) -> Written:
        """Takes in the events up to `offsets` and commits what follows from them. Raises Fenced, TableError."""
        state, marks, rows = self._stepped(events)
        self._at_point("stepped")
        self._table.append(rows, positions=derived_positions(offsets, marks), metadata=commit_metadata(reward_times(events)))
        self._state, self._marks, self._rows = state, marks, _NO_ROWS
        self.offsets = offsets
        self._at_point("derived")
        return Written(rows.num_rows, pc.sum(rows["overridden"]).as_py() or 0)

    def erase(self, deletions: pl.DataFrame) -> None:
        """Forgets what deletions cover of the open windows."""
        self._state = without(self._state, deletions)

    def _stepped(self, events: pl.DataFrame) -> tuple[JoinState, dict[int, LaneMarks], pa.Table]:
        """The next state, the marks of each partition, and the rows to write."""
        judged = judge(events, config=self._config)
        watermarks = advance_all(
            {number: marks.watermarks for number, marks in self._marks.items()}, judged, grace_us=self._config.grace_us
        )
        watermark_us = {number: partition_watermark(own) for number, own in watermarks.items()}
        state, rows = step_judged(self._state, judged, watermark_us=watermark_us, config=self._config)
        written = set(pc.unique(rows["partition"]).to_pylist()) | set(pc.unique(self._rows["partition"]).to_pylist())
        marks = {
            number: LaneMarks(watermarks[number], own.commits + (number in written), of_partition(state.counts, number))
            for number, own in self._marks.items()
        }
        return state, marks, pa.concat_tables([self._rows, _stamped(rows, marks)])

    def _recover(self, number: int) -> None:
        """Brings a partition back from the tables."""
        landed = self._landed
        marks = read_marks(self._table.position, number)
        self._marks[number] = marks
        if landed is None or not self.offsets:
            self._state = dataclasses.replace(self._state, counts={**self._state.counts, number: dict(marks.counts)})
            return
        watermark_us = partition_watermark(marks.watermarks)
        since_us = watermark_us - self._config.memory_us
        events = _derived_events(landed, number=number, offsets=self.offsets, since_us=since_us)
        written = self._written(number, since_us=since_us)
        counts = {number: dict(marks.counts)}
        state, rows = rebuild(events, revisions=written, counts=counts, watermark_us={number: watermark_us}, config=self._config)
        self._state = merged(self._state, state)
        stamped = _stamped(rows, {number: dataclasses.replace(marks, commits=marks.commits + 1)})
        self._rows = pa.concat_tables([self._rows, stamped])

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


def _stamped(rows: pa.Table, marks: Mapping[int, LaneMarks]) -> pa.Table:
    """The rows with the metadata of their commit, as OBSERVATION_SCHEMA."""
    numbers = np.array(sorted(marks), dtype=np.int32)
    which = np.searchsorted(numbers, rows["partition"].to_numpy())
    stamps = {
        "watermark_us": [partition_watermark(marks[number].watermarks) for number in numbers],
        "commit_seq": [marks[number].commits for number in numbers],
    }
    for name, values in stamps.items():
        rows = rows.append_column(name, pa.array(np.array(values, dtype=np.int64)[which]))
    return rows.select(OBSERVATION_SCHEMA.names).cast(OBSERVATION_SCHEMA)
