"""What units did of late, as features: count, sum and last value of each signal over windows that end at one time. Pure.

A feature is named SIGNAL_AGGREGATE_WINDOW, e.g. `play_count_7d`. Which columns there are follows from the signals and windows asked for,
not from the rows, so a version in which nobody did something has the column all the same.
"""

from collections.abc import Sequence

import polars as pl

from protos.unit_features import FeatureColumn

__all__ = ["AGGREGATES", "FIRST_TIME", "feature_columns", "unit_features", "usable_signals", "without_units"]

AGGREGATES = ("count", "sum", "last")
# Event time of the oldest signal in a row, microseconds since the epoch: what a deletion is compared with.
FIRST_TIME = "first_time_us"


def usable_signals(events: pl.DataFrame, *, tenant: str) -> pl.DataFrame:
    """The sound signals of a tenant among landed events, each event id once (as it first came), by unit, name and time."""
    sound = events.filter((pl.col("kind") == "signal") & pl.col("fault").is_null() & (pl.col("tenant") == tenant))
    first = sound.sort("append_time_us", "topic", "partition", "offset").unique(["unit_id", "event_id"], keep="first", maintain_order=True)
    # A signal without a value is counted, and worth 1.
    return first.select("unit_id", "name", "event_time_us", "event_id", pl.col("value").fill_null(1.0)).sort(
        "unit_id", "name", "event_time_us", "event_id"
    )


def feature_columns(signals: Sequence[str], *, windows_s: Sequence[float], last_default: float = 0.0) -> list[FeatureColumn]:
    """The features of these signals and windows; counts and sums of nothing are 0, the last value of nothing `last_default`."""
    return [
        FeatureColumn(f"{signal}_{aggregate}_{_label(window_s)}", signal, aggregate, window_s, last_default if aggregate == "last" else 0.0)
        for signal in signals
        for window_s in windows_s
        for aggregate in AGGREGATES
    ]


def unit_features(signals: pl.DataFrame, columns: Sequence[FeatureColumn], *, at_us: int) -> pl.DataFrame:
    """One row a unit that did something in a window: unit_id, a float64 a column, FIRST_TIME; by unit. `signals` as `usable_signals`.

    A window holds at_us - window <= event time < at_us.
    """
    longest = max((column.window_s for column in columns), default=0.0)
    named = pl.col("name").is_in(list(dict.fromkeys(column.signal for column in columns)))
    inside = signals.filter(named & _within(longest, at_us=at_us))
    features = [_feature(column, at_us=at_us).alias(column.name) for column in columns]
    return inside.group_by("unit_id", maintain_order=True).agg(*features, pl.col("event_time_us").min().alias(FIRST_TIME))


def without_units(features: pl.DataFrame, deletions: pl.DataFrame, *, tenant: str) -> pl.DataFrame:
    """The rows into which no event has gone that a deletion covers."""
    last = deletions.filter(pl.col("tenant") == tenant).group_by("unit_id").agg(pl.col("until_us").max())
    covered = features.select("unit_id", FIRST_TIME).join(last, on="unit_id", how="left", maintain_order="left")
    return features.filter(covered.select(kept=(pl.col(FIRST_TIME) > pl.col("until_us")).fill_null(True))["kept"])


def _label(window_s: float) -> str:
    for unit, length_s in (("d", 86_400.0), ("h", 3_600.0)):
        if window_s % length_s == 0:
            return f"{round(window_s / length_s)}{unit}"
    return f"{window_s:g}s"


def _within(window_s: float, *, at_us: int) -> pl.Expr:
    return (pl.col("event_time_us") < at_us) & (pl.col("event_time_us") >= at_us - round(window_s * 1e6))


def _feature(column: FeatureColumn, *, at_us: int) -> pl.Expr:
    values = pl.col("value").filter((pl.col("name") == column.signal) & _within(column.window_s, at_us=at_us))
    # Rows come by time within a unit and signal, so the last one is the newest.
    found = {"count": values.len(), "sum": values.sum(), "last": values.last()}[column.aggregate]
    return found.cast(pl.Float64).fill_null(column.default)
