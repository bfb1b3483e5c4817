"""Rewards that name a unit and an action, but no decision: which decisions they are credited to, and in what parts. Pure, columnar.

A decision is *touched* by a reward of its unit and task when the action is in its slate and the reward happened at or after the decision
and within the outcome's window. Of the touched decisions

    last      the latest takes all              first     the earliest takes all
    linear    each takes 1/n                    position  0.4 to the first, 0.4 to the last, 0.2 shared between (two: half each)

A part for decision D counts only decisions that had been logged while D could still be corrected: what D is worth is then a function of
the events of its unit, whenever they came.
"""

import polars as pl

from attribution.decisions import decision_table
from attribution.settings import JoinConfig

__all__ = ["CREDIT_RULES", "parts", "unattributed"]

CREDIT_RULES = ("last", "first", "linear", "position")
_ENDS, _MIDDLE = 0.4, 0.2


def unattributed() -> pl.Expr:
    """Is this reward one that names no decision?"""
    return pl.col("decision_id").bin.size() == 0


def parts(rewards: pl.DataFrame, *, peers: pl.DataFrame, config: JoinConfig) -> pl.DataFrame:
    """The rewards, once for each decision that has a part in them: `decision_id` filled in, `value` times `credit`.

    `rewards`: rewards without a decision. `peers`: every decision that is held of their units (decision_id, tenant, task, unit_id,
    partition, event_time_us, append_time_us, payload).
    """
    touches = _touches(rewards.with_row_index("copy"), peers, config)
    shared = _shares(touches)
    columns = [name for name in rewards.columns if name not in ("decision_id", "value")]
    return shared.filter(pl.col("credit") > 0).select(
        *columns, pl.col("decision_id"), value=pl.col("value") * pl.col("credit"), credit="credit", peers_append_us="peers_append_us"
    )


def _touches(rewards: pl.DataFrame, peers: pl.DataFrame, config: JoinConfig) -> pl.DataFrame:
    """One row a reward and touched decision."""
    # The partition too: another worker may derive the unit's events in another one.
    keys = ["partition", "tenant", "task", "unit_id"]
    near = peers.join(rewards.select(keys).unique(), on=keys, how="semi")
    slates = pl.Series("slate", decision_table(near["payload"].to_list())["slot_action"].combine_chunks())
    theirs = near.select(*keys, "decision_id", decided_us="event_time_us", decided_append_us="append_time_us").with_columns(slates)
    limits = config.task_frame.select("tenant", "task", "credit_rule", last_us=pl.col("window_us") + pl.col("late_us"))
    windows = config.outcome_frame.select("tenant", "task", "name", "outcome_us")
    both = (
        rewards.drop("decision_id").join(windows, on=["tenant", "task", "name"]).join(theirs, on=keys).join(limits, on=["tenant", "task"])
    )
    delay = pl.col("event_time_us") - pl.col("decided_us")
    return both.filter((delay >= 0) & (delay < pl.col("outcome_us")) & pl.col("slate").list.contains(pl.col("action")))


def _shares(touches: pl.DataFrame) -> pl.DataFrame:
    """The credit of each decision, by its place among the touched ones that were logged in time to count for it."""
    others = touches.select("copy", "decided_append_us", other_us="decided_us", other_id="decision_id")
    pairs = touches.join(others, on="copy", suffix="_other")
    counted = pairs.filter(
        (pl.col("decided_append_us_other") < pl.col("decided_us") + pl.col("last_us")) | (pl.col("other_id") == pl.col("decision_id"))
    )
    earlier = (pl.col("other_us") < pl.col("decided_us")) | (
        (pl.col("other_us") == pl.col("decided_us")) & (pl.col("other_id") < pl.col("decision_id"))
    )
    placed = counted.group_by("copy", "decision_id", maintain_order=True).agg(
        n=pl.len(), nth=earlier.sum(), peers_append_us=pl.col("decided_append_us_other").max()
    )
    return touches.join(placed, on=["copy", "decision_id"]).with_columns(credit=_credit())


def _credit() -> pl.Expr:
    n, nth = pl.col("n"), pl.col("nth")
    first, last = nth == 0, nth == n - 1
    position = pl.when(n <= 2).then(1.0 / n).when(first | last).then(_ENDS).otherwise(_MIDDLE / (n - 2))
    rules = {"last": last.cast(pl.Float64), "first": first.cast(pl.Float64), "linear": 1.0 / n, "position": position}
    return pl.coalesce(pl.when(pl.col("credit_rule") == rule).then(credit) for rule, credit in rules.items())
