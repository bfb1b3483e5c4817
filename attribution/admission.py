"""Which events take part in the join, by the config: decided from the event alone, so the verdict never depends on when we looked. Pure."""

import numpy as np
import polars as pl

from attribution.events import DAMAGE, UNDECODABLE
from attribution.settings import JoinConfig
from attribution.tally import Counts, tally_by

__all__ = ["CONTRADICTIONS", "REASONS", "judge", "quarantined"]

# Reasons that need no decision to be found.
_ALONE = (
    "undecodable",
    "append_time_missing",
    "event_time_missing",
    "decision_id_missing",
    "decision_id_malformed",
    "unit_id_missing",
    "event_id_missing",
    "name_missing",
    "value_missing",
    "value_not_finite",
    "slate_empty",
    "features_malformed",
    # Deleted on request, or by age: the event is gone, and its place is kept for the account.
    "erased",
    "expired",
    "heartbeat_elsewhere",
    # No task of the config has this name (and tenant).
    "unknown_task",
    # Stamped later than the log took it, by more than the task allows.
    "future",
    # A decision that came when its last correction was over.
    "too_late",
    # A reward whose name is no outcome of the task.
    "unknown_outcome",
)
# Reasons that show only beside the decision.
CONTRADICTIONS = (
    "other_unit",
    "other_task",
    "slate_too_old",
    "no_candidate",
    "no_such_slot",
    "slot_and_action_differ",
    "action_not_in_slate",
)
REASONS = (*_ALONE, *CONTRADICTIONS)

_KEYS = ("tenant", "task")
_WITHOUT_TASK = ("signal", "heartbeat", DAMAGE, UNDECODABLE)


def judge(events: pl.DataFrame, *, config: JoinConfig) -> pl.DataFrame:
    """The events with the limits of their task beside them, and `fault` (one of REASONS) where the event is quarantined.

    Events of no task keep null limits; damage keeps its own words in `fault`.
    """
    judged = events.join(config.task_frame, on=_KEYS, how="left", maintain_order="left")
    return judged.with_columns(_unknown(events, config)).with_columns(fault=pl.coalesce("fault", *_faults(config))).drop("unknown")


def _unknown(events: pl.DataFrame, config: JoinConfig) -> pl.Series:
    """Is this a reward whose name is no outcome of its task? Few events are rewards, so only they are looked up."""
    rewards = events.select("kind", *_KEYS, "name").with_row_index("row").filter(pl.col("kind") == "reward")
    unknown = np.zeros(events.height, dtype=bool)
    unknown[rewards.join(config.outcome_frame, on=[*_KEYS, "name"], how="anti")["row"].to_numpy()] = True
    return pl.Series("unknown", unknown, dtype=pl.Boolean)


def quarantined(judged: pl.DataFrame) -> Counts:
    """Events by the reason for which `judge` refused them. Damage is no event, and is not in it."""
    if judged["fault"].null_count() == judged.height:
        return {}
    refused = judged.select("partition", "kind", "fault").filter(pl.col("fault").is_not_null() & (pl.col("kind") != DAMAGE))
    return tally_by(refused, "fault")


def _faults(config: JoinConfig) -> list[pl.Expr]:
    joined = ~pl.col("kind").is_in(_WITHOUT_TASK)
    allowed = pl.coalesce("max_future_us", pl.lit(config.max_future_us))
    age = pl.col("append_time_us") - pl.col("event_time_us")
    nameless = (pl.col("kind") == "reward") & (pl.col("decision_id").bin.size() == 0) & pl.col("credit_rule").is_null()
    return [
        pl.when(joined & pl.col("window_us").is_null()).then(pl.lit("unknown_task")),
        pl.when((-age > allowed) & ~pl.col("final").fill_null(False)).then(pl.lit("future")),
        pl.when((pl.col("kind") == "decision") & (age >= pl.col("window_us") + pl.col("late_us"))).then(pl.lit("too_late")),
        pl.when("unknown").then(pl.lit("unknown_outcome")),
        pl.when(nameless).then(pl.lit("decision_id_missing")),
    ]
