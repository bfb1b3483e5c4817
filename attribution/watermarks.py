"""Event time that is over, by partition: the smallest over the sources, moved by events and heartbeats, never by a clock. Pure.

An event moves its source to min(event time, append time) - grace: never past the moment at which it was logged, so that what is
logged later on its source can be late only by the join's own rule. A heartbeat moves its source to exactly its time; a final one ends it.
"""

from collections.abc import Iterator, Mapping

import polars as pl

__all__ = ["FINAL_US", "SOURCES", "UNSEEN_US", "Watermarks", "advance", "advance_all", "partition_watermark", "stale_sources"]

SOURCES = ("decisions", "impressions", "rewards")
# The end of time: 9999-12-31T23:59:59Z, a date that every calendar library still takes. Where a final heartbeat leaves its source.
FINAL_US = 253_402_300_799_000_000
# A source that has said nothing yet.
UNSEEN_US = 0

# Source -> its watermark, microseconds since the epoch.
Watermarks = Mapping[str, int]

_SOURCE_OF = {"decision": "decisions", "impression": "impressions", "reward": "rewards"}
# Topic -> the sources that may speak in it. In the embedded transport the log `decisions` is read to its end before a record of
# `feedback` is handed on, so a heartbeat of the decisions may stand in either.
_SPEAKS = {
    "decisions": ("decisions",),
    "feedback": SOURCES,
    "impressions": ("impressions",),
    "rewards": ("rewards",),
}


def advance(marks: Watermarks, judged: pl.DataFrame, *, grace_us: int) -> dict[str, int]:
    """The watermarks of a partition after these events of it (as `admission.judge` gives them; the quarantined move nothing)."""
    moved = {source: marks.get(source, UNSEEN_US) for source in SOURCES}
    for _, source, mark in _newest(judged, grace_us=grace_us):
        moved[source] = max(moved[source], mark)
    return moved


def advance_all(marks: Mapping[int, Watermarks], judged: pl.DataFrame, *, grace_us: int) -> dict[int, dict[str, int]]:
    """As `advance`, of every partition that has marks."""
    moved = {number: {source: own.get(source, UNSEEN_US) for source in SOURCES} for number, own in marks.items()}
    for number, source, mark in _newest(judged, grace_us=grace_us):
        moved[number][source] = max(moved[number][source], mark)
    return moved


def _newest(judged: pl.DataFrame, *, grace_us: int) -> Iterator[tuple[int, str, int]]:
    """How far the events move each partition's sources."""
    columns = ("topic", "partition", "kind", "source", "final", "event_time_us", "append_time_us")
    sound = judged.select(*columns, "fault").filter(pl.col("fault").is_null() & (pl.col("kind") != "signal"))
    beats = pl.col("kind") == "heartbeat"
    times = sound.select(
        "topic",
        "partition",
        source=pl.when(beats).then("source").otherwise(pl.col("kind").replace(_SOURCE_OF)),
        mark=pl.when(beats & pl.col("final"))
        .then(pl.lit(FINAL_US))
        .when(beats)
        .then("event_time_us")
        .otherwise(pl.min_horizontal("event_time_us", "append_time_us") - grace_us),
    )
    for topic, number, source, mark in times.group_by("topic", "partition", "source").agg(pl.col("mark").max()).iter_rows():
        if source in _SPEAKS.get(topic, ()):
            yield number, source, mark


def partition_watermark(marks: Watermarks) -> int:
    """Everything before this has come, microseconds since the epoch; UNSEEN_US until every source has spoken."""
    return min(marks.get(source, UNSEEN_US) for source in SOURCES)


def stale_sources(marks: Watermarks) -> list[str]:
    """The sources that hold the watermark back."""
    held = partition_watermark(marks)
    return [source for source in SOURCES if marks.get(source, UNSEEN_US) == held and held != FINAL_US]
