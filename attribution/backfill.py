"""Replay: the same kernel over what has landed, or over a log, into a table of its own. The latest rows are the same as the stream's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import polars as pl

from attribution.decode import decode
from attribution.deletions import read_deletions
from attribution.deriver import Deriver, underived_events
from attribution.erasure import erase
from attribution.errors import TableError
from attribution.positions import read_landed
from attribution.settings import JoinConfig
from attribution.sources import Partition, Source
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, PositionedTable, open_table
from attribution.watermarks import FINAL_US
from attribution.worker import Progress
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["TimeRange", "backfill_landed", "backfill_source"]

# An end can lie behind the last record (a torn tail, the marks of a transaction); a broker that is slow answers a fetch with nothing too.
_QUIET_FETCHES = 20


@dataclasses.dataclass(frozen=True)
class TimeRange:
    """Decisions made in [from_us, until_us) get rows; their feedback counts whenever it came. Microseconds since the epoch."""

    from_us: int = 0
    until_us: int = FINAL_US

    def of(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events without decisions of another time."""
        inside = (pl.col("event_time_us") >= self.from_us) & (pl.col("event_time_us") < self.until_us)
        return events.filter((pl.col("kind") != "decision") | inside.fill_null(True))


ALL_TIME = TimeRange()


def backfill_landed(landed: Path, *, out: Path, config: JoinConfig, within: TimeRange = ALL_TIME) -> Progress:
    """Derives every event that has landed below `landed` into `out`, in one step. Raises TableError."""
    events_table = open_table(landed / EVENTS_DIR, schema=None)
    seen = events_table.read(columns=["topic", "partition"]).unique().sort("topic", "partition")
    partitions = [Partition(topic, number) for topic, number in seen.iter_rows()]
    offsets = read_landed(events_table.position, partitions)
    everything = underived_events(events_table, landed_offsets=offsets, derived={})
    events = within.of(erase(everything, read_deletions(landed)))
    deriver = Deriver(_empty_table(out), partitions=partitions, config=config)
    return Progress(events.height, deriver.derive(events, offsets=offsets).rows)


def backfill_source(
    source: Source,
    *,
    out: Path,
    config: JoinConfig,
    on_progress: Callable[[Progress], None],
    within: TimeRange = ALL_TIME,
    deletions: Path | None = None,
) -> Progress:
    """Derives what a source holds now into `out`, batch by batch; what was deleted below `deletions` stays deleted.

    Raises TableError, SourceError.
    """
    erased = read_deletions(deletions or out)
    deriver = Deriver(_empty_table(out), partitions=source.partitions(), config=config)
    ends = source.end_offsets()
    events, rows = 0, 0
    quiet = 0
    while any(deriver.offsets.get(partition, 0) < end for partition, end in ends.items()) and quiet < _QUIET_FETCHES:
        raws, offsets, _ = source.fetch(deriver.offsets)
        if offsets == deriver.offsets:
            quiet += 1
            continue
        quiet = 0
        frame = within.of(erase(decode(raws), erased))
        done = Progress(frame.height, deriver.derive(frame, offsets=offsets).rows)
        events, rows = events + done.events, rows + done.rows
        on_progress(done)
    return Progress(events, rows)


def _empty_table(out: Path) -> PositionedTable:
    table = open_table(out / OBSERVATIONS_DIR, schema=OBSERVATION_SCHEMA)
    if table.read(columns=["decision_id"]).height:
        raise TableError(f"--out {out}: its table `{OBSERVATIONS_DIR}` has rows already; a backfill wants a directory of its own")
    return table
