"""Event time that is over, by partition: the smallest over the sources, moved by events and heartbeats, never by a clock. Pure.

An event moves its source to min(event time, append time) - grace: never past the moment at which it was logged, so that what is
logged later on its source can be late only by the join's own rule. A heartbeat moves its source to exactly its time; a final one ends it.
"""

from collections.abc import Mapping

import polars as pl

__all__ = ["FINAL_US", "SOURCES", "UNSEEN_US", "Watermarks", "advance", "partition_watermark", "stale_sources"]

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
    sound = judged.filter(pl.col("fault").is_null() & (pl.col("kind") != "signal"))
    beats = pl.col("kind") == "heartbeat"
    times = sound.select(
        "topic",
        source=pl.when(beats).then("source").otherwise(pl.col("kind").replace(_SOURCE_OF)),
        mark=pl.when(beats & pl.col("final"))
        .then(pl.lit(FINAL_US))
        .when(beats)
        .then("event_time_us")
        .otherwise(pl.min_horizontal("event_time_us", "append_time_us") - grace_us),
    )
    moved = {source: marks.get(source, UNSEEN_US) for source in SOURCES}
    for topic, source, mark in times.group_by("topic", "source").agg(pl.col("mark").max()).iter_rows():
        if source in _SPEAKS.get(topic, ()):
            moved[source] = max(moved[source], mark)
    return moved


def partition_watermark(marks: Watermarks) -> int:
    """Everything before this has come, microseconds since the epoch; UNSEEN_US until every source has spoken."""
    return min(marks.get(source, UNSEEN_US) for source in SOURCES)


def stale_sources(marks: Watermarks) -> list[str]:
    """The sources that hold the watermark back."""
    held = partition_watermark(marks)
    return [source for source in SOURCES if marks.get(source, UNSEEN_US) == held and held != FINAL_US]
