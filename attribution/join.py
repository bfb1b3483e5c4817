"""The join as a step function in event time: (state, events, watermark) -> (state, rows). No clock, no disk, no network.

    decision at t ──► open ──► closed: its row ──► held: late events make further revisions ──► forgotten
                      until t + window             until t + window + grace + horizon

A task may ask for a provisional row before the close.

The latest revision of a decision is a function of the set of its events and the config (see `derive`): the state only holds what that
function still needs, so steps may be cut anywhere, events may come twice or out of order, and the latest rows are the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from attribution.admission import judge, quarantined
from attribution.credit import unattributed
from attribution.derive import DERIVED_COLUMNS, Derived, derive
from attribution.erasure import erased_rows
from attribution.events import EVENT_SCHEMA
from attribution.settings import JoinConfig
from attribution.watermarks import FINAL_US
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["COUNTS", "STAMPS", "JoinState", "Stepped", "empty_state", "rebuild", "step", "without"]

# Columns of an observation that the writer adds when it commits the row.
STAMPS = ("partition", "watermark_us", "commit_seq")
# What an event can count as, beside the reasons of `admission.REASONS`. The sum over all is the feedback that is not held any more.
# `shared`: rewards that named no decision, counted when none takes them any more; their parts count as nothing else.
COUNTS = ("attributed", "duplicates", "late", "orphans", "outside_window", "shared")

_FEEDBACK_COLUMNS = (
    "kind",
    "tenant",
    "task",
    "unit_id",
    "decision_id",
    "event_id",
    "event_time_us",
    "append_time_us",
    "name",
    "value",
    "slot",
    "action",
    "seen_slots",
    "seen_actions",
    "payload",
    "gone_us",
)
_DECISION_COLUMNS = (
    "decision_id",
    "tenant",
    "task",
    "unit_id",
    "event_time_us",
    "append_time_us",
    "payload",
    "close_us",
    "early_us",
    "gone_us",
    "forget_us",
)
# Decisions are forgotten when at least this share of those held can be.
_GONE_SHARE = 0.2
_ROW_SCHEMA = pa.schema([field for field in OBSERVATION_SCHEMA if field.name not in STAMPS])


@dataclasses.dataclass(frozen=True)
class JoinState:
    """What a partition's join remembers.

    `decisions`: open and held decisions with `revision` (0 = open). `feedback`: impressions and rewards that a held decision uses or a
    coming one may. `forgotten`: ids of decisions that take nothing any more, kept while an event could still name them. `counts`: events
    by what they counted as, since the beginning. `watermark_us`: that of the last step.
    """

    decisions: pl.DataFrame
    feedback: pl.DataFrame
    forgotten: pl.DataFrame
    counts: Mapping[str, int]
    watermark_us: int


class Stepped(NamedTuple):
    """The next state, and the rows of this step: OBSERVATION_SCHEMA without STAMPS."""

    state: JoinState
    rows: pa.Table


def empty_state() -> JoinState:
    """The state before the first event."""
    nothing = pl.from_arrow(EVENT_SCHEMA.empty_table())
    assert isinstance(nothing, pl.DataFrame)
    time = pl.lit(0, dtype=pl.Int64)
    nothing = nothing.with_columns(close_us=time, early_us=time, gone_us=time, forget_us=time, revision=pl.lit(0, dtype=pl.Int32)).clear()
    forgotten = nothing.select("decision_id", "forget_us")
    return JoinState(nothing.select(*_DECISION_COLUMNS, "revision"), nothing.select(_FEEDBACK_COLUMNS), forgotten, {}, 0)


def step(state: JoinState, events: pl.DataFrame, *, watermark_us: int, config: JoinConfig) -> Stepped:
    """Takes events in and moves event time on.

    `events` has the columns of EVENT_SCHEMA; `watermark_us`, microseconds since the epoch, never falls below that of the last step.
    A row comes for each decision that closes, and for each held one whose events now say something else.
    """
    judged = judge(events, config=config)
    counts = _plus(state.counts, quarantined(judged))
    sound = judged.filter(pl.col("fault").is_null())
    decisions, repeats = _with_decisions(state, sound.filter(pl.col("kind") == "decision"))
    arrived, late = _arrivals(state, sound.filter(pl.col("kind").is_in(["impression", "reward"])))
    feedback = pl.concat([state.feedback, arrived])
    closing = decisions.filter(
        (pl.col("close_us") <= watermark_us) & ((pl.col("revision") == 0) | (pl.col("close_us") > state.watermark_us))
    )
    fresh = _derived(closing, feedback, decisions, config)
    early = decisions.filter((pl.col("revision") == 0) & (pl.col("early_us") <= watermark_us) & (pl.col("close_us") > watermark_us))
    provisional = _derived(early, feedback, decisions, config, watermark_us=watermark_us)
    touched = _touched(state, decisions, sound, arrived)
    revised = _revisions(state, decisions, feedback, touched=touched, config=config)
    counts = _plus(counts, {"duplicates": repeats, "late": late}, fresh.counts, revised.counts)
    decisions = _numbered(decisions, closed=pl.concat([closing, early])["decision_id"], revised=revised.rows["decision_id"])
    rows = pa.concat_tables([_with_revision(derived, decisions) for derived in (provisional, fresh, revised)])
    held = JoinState(decisions, feedback, state.forgotten, counts, max(watermark_us, state.watermark_us))
    return Stepped(_forgetting(held), rows)


def rebuild(
    events: pl.DataFrame, *, revisions: Mapping[bytes, int], counts: Mapping[str, int], watermark_us: int, config: JoinConfig
) -> Stepped:
    """The state after a crash, from the landed events that can still matter, and the numbers of the revisions that were written.

    The rows are those of closed decisions that no revision was written for: a shorter window in the config closes some early.
    """
    state, rows = step(empty_state(), events, watermark_us=watermark_us, config=config)
    written = pl.DataFrame(
        {"decision_id": list(revisions), "written": list(revisions.values())}, schema={"decision_id": pl.Binary, "written": pl.Int32}
    )
    numbered = state.decisions.join(written, on="decision_id", how="left", maintain_order="left")
    decisions = numbered.with_columns(revision=pl.coalesce("written", "revision")).drop("written")
    unwritten = (
        pl.Series(rows["decision_id"].combine_chunks()).is_in(list(revisions)).not_() if rows.num_rows else pl.Series([], dtype=pl.Boolean)
    )
    return Stepped(dataclasses.replace(state, decisions=decisions, counts=dict(counts)), rows.filter(unwritten.to_arrow()))


def without(state: JoinState, deletions: pl.DataFrame) -> JoinState:
    """The state without what deletions cover."""
    decisions = state.decisions.filter(~erased_rows(state.decisions, deletions))
    feedback = state.feedback.filter(~erased_rows(state.feedback, deletions))
    return dataclasses.replace(state, decisions=decisions, feedback=feedback)


def _with_decisions(state: JoinState, fresh: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Held decisions with the new ones. Of the copies of one id the first logged stands: that answer was the caller's. And the repeats."""
    time = pl.col("event_time_us")
    close = time + pl.col("window_us")
    # A decision that shares rewards with later ones is held as long as those can be corrected.
    shared = pl.when(pl.col("credit_rule").is_not_null()).then("window_us").otherwise(0)
    limits = {
        "close_us": close,
        "early_us": time + pl.col("provisional_us"),
        "gone_us": close + pl.col("late_us") + shared,
        "forget_us": close + pl.col("hold_us"),
    }
    new = fresh.with_columns(**limits, revision=pl.lit(0, dtype=pl.Int32)).select(state.decisions.columns)
    unknown = new.join(state.forgotten, on="decision_id", how="anti", maintain_order="left")
    both = pl.concat([state.decisions, unknown])
    if both["decision_id"].n_unique() < both.height:
        revision = pl.col("revision").max().over("decision_id")
        both = both.with_columns(revision).sort("append_time_us", "payload").unique("decision_id", keep="first", maintain_order=True)
    return both, state.decisions.height + new.height - both.height


def _arrivals(state: JoinState, fresh: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """New feedback that can still be used, and how much came when all that it could belong to was forgotten."""
    timed = fresh.with_columns(gone_us=pl.col("event_time_us") + pl.col("hold_us")).select(_FEEDBACK_COLUMNS)
    of_held = pl.col("decision_id").is_in(state.decisions["decision_id"].implode())
    usable = timed.filter((pl.col("gone_us") > state.watermark_us) | of_held)
    usable = usable.join(state.forgotten, on="decision_id", how="anti", maintain_order="left")
    return usable, timed.height - usable.height


def _touched(state: JoinState, decisions: pl.DataFrame, sound: pl.DataFrame, arrived: pl.DataFrame) -> pl.Series:
    """Ids of the decisions that the new events may say something of: their own, and those that share a reward with them."""
    own = sound.filter(pl.col("kind").is_in(["decision", "impression", "reward"]))["decision_id"].unique()
    waiting = state.feedback.filter(unattributed()).select("unit_id").unique()
    newly = sound.filter(pl.col("kind") == "decision").join(waiting, on="unit_id", how="semi")["unit_id"]
    units = pl.concat([newly, arrived.filter(unattributed())["unit_id"]])
    if units.is_empty():
        return own
    return pl.concat([own, decisions.filter(pl.col("unit_id").is_in(units.implode()))["decision_id"]]).unique()


def _derived(
    decisions: pl.DataFrame, feedback: pl.DataFrame, peers: pl.DataFrame, config: JoinConfig, *, watermark_us: int = FINAL_US
) -> Derived:
    if decisions.is_empty():
        return Derived(_ROW_SCHEMA.empty_table().drop_columns("revision"), {})
    mine = feedback.join(decisions.select("decision_id"), on="decision_id", how="semi")
    shared = feedback.filter(unattributed()).join(decisions.select("unit_id").unique(), on="unit_id", how="semi")
    return derive(decisions, pl.concat([mine, shared]), config=config, watermark_us=watermark_us, peers=peers)


def _revisions(state: JoinState, decisions: pl.DataFrame, feedback: pl.DataFrame, *, touched: pl.Series, config: JoinConfig) -> Derived:
    """Rows of held decisions that say something else than before this step, and by how much the counts change."""
    closed = (pl.col("revision") > 0) & (pl.col("close_us") <= state.watermark_us)
    mine = pl.col("decision_id").is_in(touched.implode()) & closed
    before = _derived(state.decisions.filter(mine).sort("decision_id"), state.feedback, state.decisions, config)
    after = _derived(decisions.filter(mine).sort("decision_id"), feedback, decisions, config)
    compared = [name for name in DERIVED_COLUMNS if name != "join_config_digest"]
    old, new = (derived.rows.select(["decision_time_us", *compared]).to_pylist() for derived in (before, after))
    changed = pa.array([a != b for a, b in zip(old, new, strict=True)], pa.bool_())
    gained = {name: after.counts.get(name, 0) - before.counts.get(name, 0) for name in {*after.counts, *before.counts}}
    return Derived(after.rows.filter(changed), gained)


def _numbered(decisions: pl.DataFrame, *, closed: pl.Series, revised: pa.ChunkedArray) -> pl.DataFrame:
    """Decisions with the revision of each row of this step counted."""
    if closed.is_empty() and not len(revised):
        return decisions
    ids = pl.concat([closed, pl.Series(revised.combine_chunks(), dtype=pl.Binary)])
    return decisions.with_columns(revision=pl.col("revision") + pl.col("decision_id").is_in(ids.implode()).cast(pl.Int32))


def _with_revision(derived: Derived, decisions: pl.DataFrame) -> pa.Table:
    ids = pl.DataFrame({"decision_id": pl.Series(derived.rows["decision_id"].combine_chunks(), dtype=pl.Binary)})
    revision = ids.join(decisions.select("decision_id", "revision"), on="decision_id", how="left", maintain_order="left")["revision"]
    return derived.rows.append_column("revision", revision.to_arrow()).select(_ROW_SCHEMA.names).cast(_ROW_SCHEMA)


def _forgetting(state: JoinState) -> JoinState:
    """The state without what no event can change any more. Feedback that waited for a decision in vain counts as orphan."""
    now = state.watermark_us
    gone = state.decisions.filter(pl.col("gone_us") <= now).select("decision_id", "forget_us")
    if gone.height < _GONE_SHARE * state.decisions.height:
        # Each time the payloads that stay are copied; a decision that is gone changes nothing by staying.
        gone = gone.clear()
    forgotten = pl.concat([state.forgotten, gone]).filter(pl.col("forget_us") > now)
    decisions = state.decisions.filter(pl.col("gone_us") > now) if gone.height else state.decisions
    feedback = state.feedback.join(gone, on="decision_id", how="anti", maintain_order="left") if gone.height else state.feedback
    ended = feedback.filter(pl.col("gone_us") <= now).join(decisions, on="decision_id", how="anti")
    if ended.height:
        kept = (pl.col("gone_us") > now) | pl.col("decision_id").is_in(decisions["decision_id"].implode())
        feedback = feedback.filter(kept)
    shared = int(ended.select(unattributed().sum()).item())
    return JoinState(decisions, feedback, forgotten, _plus(state.counts, {"orphans": ended.height - shared, "shared": shared}), now)


def _plus(*counts: Mapping[str, int]) -> dict[str, int]:
    """The counts added up by name."""
    names = dict.fromkeys(name for part in counts for name in part)
    return {name: total for name in names if (total := sum(part.get(name, 0) for part in counts))}
