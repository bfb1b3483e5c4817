"""What stands in the two tables, as one report: the account of the decisions, the counts of the events, watermark, damage and lag."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from attribution.accounting import ACCOUNT_COLUMNS, account
from attribution.admission import REASONS
from attribution.events import DAMAGE, EVENT_SCHEMA, UNDECODABLE
from attribution.freshness import freshness_of_commits
from attribution.join import COUNTS
from attribution.positions import LaneMarks, read_derived, read_landed, read_marks
from attribution.settings import JoinConfig
from attribution.sources import Offsets, Partition
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, PositionedTable, open_table, text
from attribution.watermarks import partition_watermark, stale_sources

# Freshness is that of the newest commits.
_FRESH_COMMITS = 100

__all__ = ["done_offsets", "landed_events", "needed_since_us", "report", "watermark_us"]


def report(out: Path, *, config: JoinConfig, ends: Offsets | None = None) -> dict[str, Any]:
    """The status of the tables below `out`; `ends` are the source's end offsets, for the lag. Raises TableError."""
    # Observations first: what has a row then has landed for certain.
    observations = open_table(out / OBSERVATIONS_DIR, schema=None)
    joined = observations.read(columns=["decision_id"])["decision_id"]
    events = open_table(out / EVENTS_DIR, schema=None)
    partitions = _partitions(events)
    standing = account(_landed_decisions(events), joined, config=config)
    marks = {p.number: read_marks(observations.position, p.number) for p in partitions}
    landed, derived = read_landed(events.position, partitions), read_derived(observations.position, partitions)
    return {
        "logged": standing.logged,
        "joined": standing.joined,
        "pending": standing.pending,
        "expired": standing.expired,
        "quarantined": standing.quarantined,
        "quarantined_reasons": dict(standing.reasons),
        "closes": standing.closes,
        "rows": joined.len(),
        "freshness": freshness_of_commits(observations.history(_FRESH_COMMITS))._asdict(),
        "events": _event_counts(marks),
        "damage": _damage(events),
        "partitions": [_partition(number, lane) for number, lane in marks.items()],
        "offsets": [_offset(p, landed=landed, derived=derived, ends=ends) for p in partitions],
    }


def landed_events(out: Path) -> pl.DataFrame:
    """Every landed event, all columns. Raises TableError."""
    return open_table(out / EVENTS_DIR, schema=None).read(columns=EVENT_SCHEMA.names)


def needed_since_us(out: Path, *, config: JoinConfig) -> int:
    """The join may still need events since this time, microseconds since the epoch. Raises TableError."""
    return watermark_us(out) - config.memory_us


def watermark_us(out: Path) -> int:
    """Everything before this has come, in every partition, microseconds since the epoch; 0 before the first event. Raises TableError."""
    observations, events = (open_table(out / name, schema=None) for name in (OBSERVATIONS_DIR, EVENTS_DIR))
    return min((partition_watermark(read_marks(observations.position, p.number).watermarks) for p in _partitions(events)), default=0)


def done_offsets(out: Path, partitions: Iterable[Partition]) -> Offsets:
    """Offset before which everything is both landed and derived; partitions of which nothing is are left out. Raises TableError."""
    asked = list(partitions)
    derived = read_derived(open_table(out / OBSERVATIONS_DIR, schema=None).position, asked)
    landed = read_landed(open_table(out / EVENTS_DIR, schema=None).position, asked)
    return {partition: min(landed.get(partition, 0), offset) for partition, offset in derived.items()}


def _partitions(events: PositionedTable) -> list[Partition]:
    seen = events.read(columns=["topic", "partition"]).unique().sort("topic", "partition")
    return [Partition(topic, number) for topic, number in seen.iter_rows()]


def _landed_decisions(events: PositionedTable) -> pl.DataFrame:
    lost = (text("kind") == UNDECODABLE) & (text("topic") == "decisions")
    return events.read(columns=ACCOUNT_COLUMNS, where=(text("kind") == "decision") | lost)


def _event_counts(marks: Mapping[int, LaneMarks]) -> dict[str, Any]:
    """Events by what they counted as, over all partitions; the reasons for quarantine apart."""
    total = {name: sum(lane.counts.get(name, 0) for lane in marks.values()) for name in (*COUNTS, *REASONS)}
    return {name: total[name] for name in COUNTS} | {"quarantined": {name: total[name] for name in REASONS if total[name]}}


def _damage(events: PositionedTable) -> list[dict[str, Any]]:
    found = events.read(columns=["topic", "partition", "offset", "fault"], where=text("kind") == DAMAGE)
    return found.sort("topic", "partition", "offset").rename({"fault": "reason"}).to_dicts()


def _partition(number: int, lane: LaneMarks) -> dict[str, Any]:
    return {
        "partition": number,
        "watermark_us": partition_watermark(lane.watermarks),
        "sources": dict(lane.watermarks),
        "held_by": stale_sources(lane.watermarks),
        "commits": lane.commits,
    }


def _offset(partition: Partition, *, landed: Offsets, derived: Offsets, ends: Offsets | None) -> dict[str, Any]:
    at = landed.get(partition, 0)
    lag = None if ends is None else ends.get(partition, at) - at
    return {"topic": partition.topic, "partition": partition.number, "landed": at, "derived": derived.get(partition, 0), "lag": lag}
