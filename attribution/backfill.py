"""Replay: the same kernel over what has landed, or over a log, into a table of its own. The latest rows are the same as the stream's."""

from collections.abc import Callable
from pathlib import Path

from attribution.decode import decode
from attribution.deriver import Deriver, underived_events
from attribution.errors import TableError
from attribution.positions import read_landed
from attribution.settings import JoinConfig
from attribution.sources import Partition, Source
from attribution.tables import PositionedTable, open_table
from attribution.worker import EVENTS_DIR, OBSERVATIONS_DIR, Progress
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["backfill_landed", "backfill_source"]

# An end can lie behind the last record (a torn tail, the marks of a transaction); a broker that is slow answers a fetch with nothing too.
_QUIET_FETCHES = 20


def backfill_landed(landed: Path, *, out: Path, config: JoinConfig) -> Progress:
    """Derives every event that has landed below `landed` into `out`, in one step. Raises TableError."""
    events_table = open_table(landed / EVENTS_DIR, schema=None)
    seen = events_table.read(columns=["topic", "partition"]).unique().sort("topic", "partition")
    partitions = [Partition(topic, number) for topic, number in seen.iter_rows()]
    offsets = read_landed(events_table.position, partitions)
    events = underived_events(events_table, landed_offsets=offsets, derived={})
    deriver = Deriver(_empty_table(out), partitions=partitions, config=config)
    return Progress(events.height, deriver.derive(events, offsets=offsets))


def backfill_source(source: Source, *, out: Path, config: JoinConfig, on_progress: Callable[[Progress], None]) -> Progress:
    """Derives what a source holds now into `out`, batch by batch. Raises TableError, SourceError."""
    deriver = Deriver(_empty_table(out), partitions=source.partitions(), config=config)
    ends = source.end_offsets()
    events, rows = 0, 0
    quiet = 0
    while any(deriver.offsets.get(partition, 0) < end for partition, end in ends.items()) and quiet < _QUIET_FETCHES:
        raws, offsets = source.fetch(deriver.offsets)
        if offsets == deriver.offsets:
            quiet += 1
            continue
        quiet = 0
        frame = decode(raws)
        done = Progress(frame.height, deriver.derive(frame, offsets=offsets))
        events, rows = events + done.events, rows + done.rows
        on_progress(done)
    return Progress(events, rows)


def _empty_table(out: Path) -> PositionedTable:
    table = open_table(out / OBSERVATIONS_DIR, schema=OBSERVATION_SCHEMA)
    if table.read(columns=["decision_id"]).height:
        raise TableError(f"--out {out}: its table `{OBSERVATIONS_DIR}` has rows already; a backfill wants a directory of its own")
    return table
