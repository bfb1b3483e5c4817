"""How far a partition has been landed and derived, as numbers under application ids: what a commit carries beside its rows. Pure.

    events         events/<topic>/<p>              next offset to land
                   events-expired                  events before this time may be gone, microseconds since the epoch (`attribution expire`)
    observations   obs/<topic>/<p>                 next offset to derive
                   obs-watermark/<source>/<p>      watermark of the source, microseconds since the epoch
                   obs-commits/<p>                 commits with rows of the partition, counted from 1 (`commit_seq`)
                   obs-count/<name>/<p>            events by what they counted as

They stand in the commit rather than in a file beside it, so they are true of exactly the rows that are there.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from attribution.admission import REASONS
from attribution.join import COUNTS
from attribution.sources import Offsets, Partition
from attribution.watermarks import SOURCES

__all__ = ["EVENTS_EXPIRED", "LaneMarks", "derived_positions", "landed_positions", "read_derived", "read_landed", "read_marks"]

EVENTS_EXPIRED = "events-expired"
Positions = Mapping[str, int]
ReadPosition = Callable[[str], int | None]


@dataclasses.dataclass(frozen=True)
class LaneMarks:
    """What a commit of observations knows of one partition beside its rows."""

    watermarks: Mapping[str, int]
    commits: int
    counts: Mapping[str, int]


def landed_positions(offsets: Offsets) -> dict[str, int]:
    """Positions of a commit of events."""
    return {_landed(partition): offset for partition, offset in offsets.items()}


def read_landed(read: ReadPosition, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """Offsets up to which events have landed; partitions of which none has are left out."""
    return {partition: offset for partition in partitions if (offset := read(_landed(partition))) is not None}


def derived_positions(offsets: Offsets, lanes: Mapping[int, LaneMarks]) -> dict[str, int]:
    """Positions of a commit of observations."""
    positions = {_derived(partition): offset for partition, offset in offsets.items()}
    for number, lane in lanes.items():
        positions |= {f"obs-watermark/{source}/{number}": mark for source, mark in lane.watermarks.items()}
        positions |= {f"obs-count/{name}/{number}": count for name, count in lane.counts.items()}
        positions[f"obs-commits/{number}"] = lane.commits
    return positions


def read_derived(read: ReadPosition, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """Offsets up to which observations have been derived; partitions of which none has are left out."""
    return {partition: offset for partition in partitions if (offset := read(_derived(partition))) is not None}


def read_marks(read: ReadPosition, number: int) -> LaneMarks:
    """What the last commit knew of a partition; zeros before the first."""
    watermarks = {source: read(f"obs-watermark/{source}/{number}") or 0 for source in SOURCES}
    counts = {name: count for name in (*COUNTS, *REASONS) if (count := read(f"obs-count/{name}/{number}"))}
    return LaneMarks(watermarks, read(f"obs-commits/{number}") or 0, counts)


def _landed(partition: Partition) -> str:
    return f"events/{partition.topic}/{partition.number}"


def _derived(partition: Partition) -> str:
    return f"obs/{partition.topic}/{partition.number}"
