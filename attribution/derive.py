"""The observation of a decision as a pure function of its events and the config: the heart of the join, columnar.

What an event counts as is decided in this order, and only from the event, its decision and the config:

1. `other_unit`, `other_task`, `slate_too_old`: it contradicts its decision and is quarantined.
2. `late`: logged when the decision's last correction was over (append time >= decision time + longest window + grace + horizon).
3. `duplicates`: of the copies of one event id the one with the smallest payload hash stands, with the smallest append time.
4. `outside_window`: it happened before the decision (by more than the grace), or after its own window.
5. further contradictions: an impression of no candidate; a reward of a slot or action that the slate has not.

What is left is attributed. A row is `corrected` where something attributed was logged after the decision's close and grace.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from attribution import credit, exposure, outcomes
from attribution.decisions import decision_table
from attribution.repeats import repeats
from attribution.reward_function import computed
from attribution.settings import JoinConfig
from attribution.tally import Counts, minus, plus, tally, tally_by
from attribution.watermarks import FINAL_US
from protos import events_pb2

__all__ = ["DERIVED_COLUMNS", "Derived", "derive", "derive_paired"]

# What `derive` adds to the columns of the decision.
DERIVED_COLUMNS = (
    "append_time_us",
    "slot_seen",
    "slot_seen_time_us",
    "exposure_times_us",
    "slot_reward",
    "reward",
    "outcomes",
    "overridden",
    "logged",
    "status",
    "join_config_digest",
)
Times = np.ndarray[Any, np.dtype[np.int64]]
_NOT_IN_LOG = (events_pb2.FALLBACK_REASON_LOG_FULL, events_pb2.FALLBACK_REASON_CLIENT)


class Derived(NamedTuple):
    """Rows parallel to the decisions (DECISION_COLUMNS and DERIVED_COLUMNS), how many events counted as what, and the events that are
    refused or late, with their `reason`."""

    rows: pa.Table
    counts: Counts
    refused: pl.DataFrame = pl.DataFrame()


def derive(decisions: pl.DataFrame, feedback: pl.DataFrame, *, config: JoinConfig, peers: pl.DataFrame | None = None) -> Derived:
    """One row a decision, when all is over.

    `decisions`: partition, decision_id (distinct in it), tenant, task, unit_id, event_time_us, append_time_us, payload. `feedback`:
    impressions and rewards of sound form, every copy of them; those of other decisions are not looked at. `peers`: decisions that may
    share a reward with these, these among them (needed where a task has a `credit` rule).
    """
    tasks = config.task_frame.select("tenant", "task", "task_row")
    decisions = decisions.join(tasks, on=["tenant", "task"], how="left", maintain_order="left")
    row = decisions.select("partition", "decision_id").with_row_index("row")
    direct = feedback.join(row, on=["partition", "decision_id"], how="inner")
    return derive_paired(decisions, direct, shared=feedback, config=config, peers=peers)


def derive_paired(
    decisions: pl.DataFrame,
    feedback: pl.DataFrame,
    *,
    shared: pl.DataFrame | None,
    config: JoinConfig,
    now_us: Times | None = None,
    peers: pl.DataFrame | None = None,
) -> Derived:
    """As `derive`, of decisions that know the `task_row` of their task, and feedback that knows the `row` of its decision.

    Rewards that know none are in `shared`. With `now_us`, the watermark of each decision, rows are provisional where it has not reached
    their close, as far as events go that are there.
    """
    limits = config.task_frame.drop("tenant", "task", "task_row").select(pl.all().gather(decisions["task_row"]))
    heads = (
        decisions.with_row_index("row")
        .hstack(limits)
        .with_columns(now_us=pl.lit(FINAL_US) if now_us is None else pl.Series(now_us, dtype=pl.Int64))
        .with_columns(provisional=pl.col("event_time_us") + pl.col("window_us") > pl.col("now_us"))
    )
    feedback = _with_parts(feedback, shared=shared, heads=heads, peers=decisions if peers is None else peers, config=config)
    body = decision_table(decisions["payload"].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.binary()))
    places = exposure.places(body)
    mine, refused, counts = _standing(heads, feedback)
    shown = exposure.expose(mine.filter(pl.col("kind") == "impression"), places=places, body=body)
    seen = places.with_columns(shown.seen)
    paid = outcomes.attribute(mine.filter(pl.col("kind") == "reward"), places=seen, outcomes=config.outcome_frame)
    refused_later = [frame.select(refused.columns) for frame in (shown.refused_events, paid.refused_events)]
    attributed = [tally("attributed", part.counted) for part in (shown, paid)]
    counts = plus(counts, *attributed, tally("outside_window", paid.outside), *(tally_by(frame, "reason") for frame in refused_later))
    scored = outcomes.score(heads, paid.events_frame, places=seen, outcomes=config.outcome_frame, open_yet=now_us is not None)
    derived = _columns(heads, body=body, places=places, shown=shown, scored=scored, corrected=_corrected(heads, shown, paid))
    for name, column in derived.items():
        body = body.append_column(name, column)
    return Derived(_with_own_rewards(body, config), counts, pl.concat([refused, *refused_later]))


def _with_parts(
    feedback: pl.DataFrame, *, shared: pl.DataFrame | None, heads: pl.DataFrame, peers: pl.DataFrame, config: JoinConfig
) -> pl.DataFrame:
    """The feedback, and the parts that the decisions have in rewards that name none."""
    direct = feedback.with_columns(credit=pl.lit(None, dtype=pl.Float64), peers_append_us=pl.lit(0, dtype=pl.Int64))
    if shared is None or not config.shares:
        return direct
    parts = credit.parts(shared.filter(credit.unattributed()), peers=peers, config=config)
    theirs = heads.select("partition", "decision_id", "row")
    return pl.concat([direct, parts.join(theirs, on=["partition", "decision_id"]).select(direct.columns)])


def _with_own_rewards(rows: pa.Table, config: JoinConfig) -> pa.Table:
    """The rows with the scalar rewards that users' own functions give."""
    for (tenant, task), name in config.functions.items():
        mine = pc.and_(pc.equal(rows["tenant"], tenant), pc.equal(rows["task"], task)).to_numpy()
        if mine.any():
            rewards = rows["reward"].to_numpy().copy()
            rewards[mine] = computed(name, rows.filter(pa.array(mine)))
            rows = rows.set_column(rows.schema.get_field_index("reward"), "reward", pa.array(rewards))
    return rows


def _standing(heads: pl.DataFrame, feedback: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, Counts]:
    """The events that stand after steps 1 to 3 (and 4 for impressions), with `row` and their decision's words; the refused; the counts."""
    decided = [pl.col(name).alias(f"{name}_decided") for name in ("unit_id", "tenant", "task")]
    # In one piece: to gather from several takes three times as long.
    theirs = heads.select("task_row", *decided, *_LIMITS, decided_us="event_time_us").rechunk()
    mine = feedback.hstack(theirs.select(pl.all().gather(feedback["row"])))
    closed_us = pl.col("decided_us") + pl.col("window_us")
    before = pl.col("event_time_us") < pl.col("decided_us") - pl.col("grace_us")
    unseen = (pl.col("kind") == "impression") & (pl.col("event_time_us") >= pl.col("decided_us") + pl.col("impression_us"))
    judged = mine.with_columns(
        verdict=pl.when(pl.col("unit_id") != pl.col("unit_id_decided"))
        .then(pl.lit("other_unit"))
        .when((pl.col("task") != pl.col("task_decided")) | (pl.col("tenant") != pl.col("tenant_decided")))
        .then(pl.lit("other_task"))
        .when((pl.col("kind") == "impression") & (pl.col("event_time_us") >= pl.col("decided_us") + pl.col("slate_age_us")))
        .then(pl.lit("slate_too_old"))
        .when(pl.col("append_time_us") >= closed_us + pl.col("late_us"))
        .then(pl.lit("late")),
    )
    # Most batches hold nothing that is refused, and to copy all columns of the others costs as much as the verdicts.
    spotless = judged["verdict"].null_count() == judged.height
    standing, duplicates = _winners(judged if spotless else judged.filter(pl.col("verdict").is_null()))
    outside = standing.select(outside=before | unseen)["outside"]
    # Parts of a shared reward count once, when no decision takes them any more (`join.COUNTS`).
    refused = judged.filter(pl.col("verdict").is_not_null()).select(*feedback.columns, reason="verdict")
    beside = standing.filter(outside & standing["credit"].is_null())["partition"]
    counts = plus(tally_by(refused.filter(pl.col("credit").is_null()), "reason"), duplicates, tally("outside_window", beside))
    known_us = pl.max_horizontal("append_time_us", "peers_append_us")
    kept = (standing.filter(~outside) if outside.any() else standing).with_columns(corrects=known_us >= closed_us + pl.col("grace_us"))
    return kept, refused, counts


_LIMITS = ("impression_us", "window_us", "grace_us", "late_us", "slate_age_us")
_IDENTITY = ("kind", "row", "event_id")


def _winners(copies: pl.DataFrame) -> tuple[pl.DataFrame, Counts]:
    """One copy of each event: smallest payload hash, smallest append time over the copies; and how many copies fell away."""
    # By a hash first, which is cheap; what only has the same hash comes out as it went in.
    mixed = pl.col("event_id").hash() ^ pl.col("row").hash() ^ pl.col("kind").hash()
    repeated = repeats(copies.select(mixed).to_series())
    if repeated is None:
        return copies, {}
    several = copies.filter(repeated).with_columns(
        append_time_us=pl.col("append_time_us").min().over(_IDENTITY), differs=pl.col("payload").n_unique().over(_IDENTITY) > 1
    )
    # Copies are mostly equal to the byte: then any of them will do.
    ranked = _by_hash(several) if several["differs"].any() else several
    chosen = ranked.drop("differs").unique(_IDENTITY, keep="first", maintain_order=True)
    before, after = (tally("duplicates", frame.filter(pl.col("credit").is_null())["partition"]) for frame in (several, chosen))
    return pl.concat([copies.filter(~repeated), chosen]), minus(before, after)


def _by_hash(copies: pl.DataFrame) -> pl.DataFrame:
    """The copies in the order of their hashes; of those that don't differ none is asked for."""
    hashes = [_content_hash(payload) if differs else b"" for payload, differs in copies.select("payload", "differs").iter_rows()]
    return copies[pl.Series(hashes, dtype=pl.Binary).arg_sort()]


def _content_hash(payload: bytes) -> bytes:
    """SHA-256 of what the event says; when the log took it is no part of that."""
    event = events_pb2.Event.FromString(payload)
    event.ClearField("append_time_us")
    return hashlib.sha256(event.SerializeToString(deterministic=True)).digest()


def _corrected(heads: pl.DataFrame, shown: exposure.Exposure, paid: outcomes.Attributed) -> np.ndarray[Any, Any]:
    corrected = np.zeros(heads.height, dtype=bool)
    corrected[shown.corrected_rows] = True
    corrected[paid.events_frame.filter("corrects")["row"].to_numpy()] = True
    return corrected


def _status(heads: pl.DataFrame, corrected: np.ndarray[Any, Any]) -> pa.Array:
    which = np.where(heads["provisional"].to_numpy(), 2, corrected.astype(np.int64))
    return pa.array(["final", "corrected", "provisional"], pa.string()).take(pa.array(which))


def _columns(
    heads: pl.DataFrame,
    *,
    body: pa.Table,
    places: pl.DataFrame,
    shown: exposure.Exposure,
    scored: outcomes.Scored,
    corrected: np.ndarray[Any, Any],
) -> dict[str, pa.Array]:
    offsets = pa.array(exposure.slot_offsets(body))
    seen = shown.seen["seen_us"].to_arrow()
    overridden = np.zeros(heads.height, dtype=bool)
    overridden[shown.overridden_rows] = True
    values = {
        "append_time_us": heads["append_time_us"].to_arrow(),
        "slot_seen": pa.ListArray.from_arrays(offsets, seen.is_valid()),
        "exposure_times_us": shown.times,
        "slot_seen_time_us": pa.ListArray.from_arrays(offsets, seen),
        "slot_reward": pa.ListArray.from_arrays(offsets, pa.array(scored.slot_reward, mask=~scored.counted)),
        "reward": pa.array(scored.reward),
        "outcomes": scored.outcomes,
        "overridden": pa.array(overridden),
        "logged": pa.array(~np.isin(body["fallback"].to_numpy(), _NOT_IN_LOG)),
        "status": _status(heads, corrected),
        "join_config_digest": heads["join_config_digest"].to_arrow().cast(pa.string()),
    }
    return {name: values[name] for name in DERIVED_COLUMNS}
