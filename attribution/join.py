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

import numpy as np
import polars as pl
import pyarrow as pa

from attribution.admission import judge
from attribution.credit import unattributed
from attribution.derive import DERIVED_COLUMNS, derive_paired
from attribution.join_state import (
    COUNTS,
    JoinState,
    Marks,
    Places,
    Taken,
    Times,
    empty_state,
    forgetting,
    later,
    marks_of,
    rows_at,
    taken_in,
    without,
)
from attribution.settings import JoinConfig
from attribution.tally import Counts, minus, plus
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["COUNTS", "STAMPS", "JoinState", "Stepped", "empty_state", "rebuild", "step", "step_judged", "without"]

# Columns of an observation that the writer adds when it commits the row.
STAMPS = ("watermark_us", "commit_seq")
_ROW_SCHEMA = pa.schema([field for field in OBSERVATION_SCHEMA if field.name not in STAMPS])
# Columns of feedback that only the state needs.
_OF_STATE = ("gone_us", "key", "place")
# And of decisions.
_OF_HELD = ("close_us", "early_us", "gone_us", "forget_us", "key", "revision")
_NO_ROWS = _ROW_SCHEMA.empty_table().drop_columns(["revision", "partition"])


class Stepped(NamedTuple):
    """The next state, and the rows of this step: OBSERVATION_SCHEMA without STAMPS."""

    state: JoinState
    rows: pa.Table


def step(state: JoinState, events: pl.DataFrame, *, watermark_us: Marks, config: JoinConfig) -> Stepped:
    """Takes events in and moves event time on.

    `events` has the columns of EVENT_SCHEMA; `watermark_us`, microseconds since the epoch, of every partition or by partition,
    never falls below that of the last step.
    A row comes for each decision that closes, and for each held one whose events now say something else.
    """
    return step_judged(state, judge(events, config=config), watermark_us=watermark_us, config=config)


def step_judged(state: JoinState, judged: pl.DataFrame, *, watermark_us: Marks, config: JoinConfig) -> Stepped:
    """As `step`, of events that `admission.judge` has been over."""
    taken, counts = taken_in(state, judged, config=config)
    decisions = taken.decisions
    revision, close, early = (decisions[name].to_numpy() for name in ("revision", "close_us", "early_us"))
    now, before = (marks_of(decisions["partition"], marks) for marks in (watermark_us, state.watermark_us))
    open_yet, over = revision == 0, close <= now
    closing = np.flatnonzero(over & (open_yet | (close > before)))
    # What has no early row has null there, which is not a number.
    soon = np.flatnonzero(open_yet & ~over & (early <= now))
    fresh = _derived(closing, taken.feedback, decisions, config)
    provisional = _derived(soon, taken.feedback, decisions, config, now_us=now[soon])
    revised, gained = _revisions(state, taken, config=config)
    parts = (provisional, fresh, revised)
    decisions = _numbered(decisions, np.concatenate([part.places for part in parts]))
    rows = pa.concat_tables([_with_revision(part, decisions) for part in parts])
    counts = plus(state.counts, counts, fresh.counts, gained)
    return Stepped(forgetting(JoinState(decisions, taken.feedback, state.forgotten, counts, later(watermark_us, state.watermark_us))), rows)


def rebuild(events: pl.DataFrame, *, revisions: Mapping[bytes, int], counts: Counts, watermark_us: Marks, config: JoinConfig) -> Stepped:
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


class _Rows(NamedTuple):
    """Rows of the decisions at `places`, and how many events counted as what."""

    places: Places
    rows: pa.Table
    counts: Counts


def _derived(places: Places, feedback: pl.DataFrame, decisions: pl.DataFrame, config: JoinConfig, *, now_us: Times | None = None) -> _Rows:
    """Rows of the decisions at these places; the others are looked at where they share a reward with them."""
    if not places.size:
        return _Rows(places, _NO_ROWS, {})
    mine = rows_at(decisions.drop(_OF_HELD), places)
    # One more for the feedback without a place, whose place is -1.
    row_of = np.full(decisions.height + 1, -1, dtype=np.int32)
    row_of[places] = np.arange(places.size, dtype=np.int32)
    row = row_of[feedback["place"].to_numpy()]
    theirs = np.flatnonzero(row >= 0)
    direct = rows_at(feedback.drop(_OF_STATE), theirs).with_columns(row=pl.Series(row[theirs], dtype=pl.UInt32))
    shared = None
    if config.shares:
        shared = feedback.filter(unattributed()).join(mine.select("unit_id").unique(), on="unit_id", how="semi")
    found = derive_paired(mine, direct, shared=shared, config=config, now_us=now_us, peers=decisions)
    return _Rows(places, found.rows, found.counts)


def _revisions(state: JoinState, taken: Taken, *, config: JoinConfig) -> tuple[_Rows, Counts]:
    """Rows of held decisions that say something else than before this step, and by how much the counts change."""
    held = state.decisions
    # A decision keeps its place within a step, so both derivations are of the same ones.
    touched = taken.touched[taken.touched < held.height]
    closed = (held["revision"].to_numpy()[touched] > 0) & (held["close_us"] <= marks_of(held["partition"], state.watermark_us)).to_numpy()[
        touched
    ]
    places = touched[closed]
    before = _derived(places, state.feedback, state.decisions, config)
    after = _derived(places, taken.feedback, taken.decisions, config)
    compared = [name for name in DERIVED_COLUMNS if name != "join_config_digest"]
    old, new = (derived.rows.select(["decision_time_us", *compared]).to_pylist() for derived in (before, after))
    changed = np.array([a != b for a, b in zip(old, new, strict=True)], dtype=bool)
    return _Rows(places[changed], after.rows.filter(pa.array(changed, pa.bool_())), {}), minus(after.counts, before.counts)


def _numbered(decisions: pl.DataFrame, places: Places) -> pl.DataFrame:
    """Decisions with the revision of each row of this step counted."""
    if not places.size:
        return decisions
    revision = decisions["revision"].to_numpy().copy()
    revision[places] += 1
    return decisions.with_columns(revision=pl.Series(revision, dtype=pl.Int32))


def _with_revision(derived: _Rows, decisions: pl.DataFrame) -> pa.Table:
    rows = derived.rows
    for name in ("revision", "partition"):
        rows = rows.append_column(name, pa.array(decisions[name].to_numpy()[derived.places], pa.int32()))
    return rows.select(_ROW_SCHEMA.names).cast(_ROW_SCHEMA)
