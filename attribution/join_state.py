"""What a partition's join remembers, what a step takes into it, and what it lets go again. Pure.

A held decision is known by its *place*, its row in the frame of decisions: an event looks its decision up once, when one of the two comes,
and from then on everything is found by place. Places change only where decisions are let go, and all at once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from attribution.admission import quarantined
from attribution.credit import unattributed
from attribution.erasure import erased_rows
from attribution.events import EVENT_SCHEMA
from attribution.settings import JoinConfig

__all__ = ["COUNTS", "JoinState", "Places", "Taken", "empty_state", "forgetting", "plus", "taken_in", "without"]

# What an event can count as, beside the reasons of `admission.REASONS`. The sum over all is the feedback that is not held any more.
# `shared`: rewards that named no decision, counted when none takes them any more; their parts count as nothing else.
COUNTS = ("attributed", "duplicates", "late", "orphans", "outside_window", "shared")

Places = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]

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
    # Hash of the decision id, and the place of the decision; -1 = it has not come.
    "key",
    "place",
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
    "key",
    "task_row",
    "revision",
)
# Of feedback, what the event itself says.
_OWN = _FEEDBACK_COLUMNS.index("gone_us")
_LIMITS = ("window_us", "provisional_us", "late_us", "hold_us", "credit_rule")
_NEW_COLUMNS = ("kind", "fault", *_DECISION_COLUMNS[:7], *_LIMITS, "key", "task_row", "place", "unforgotten")
# Decisions are forgotten when at least this share of those held can be.
_GONE_SHARE = 0.2


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


class Taken(NamedTuple):
    """Decisions and feedback with what has come, and the places of decisions of which the new events may say something."""

    decisions: pl.DataFrame
    feedback: pl.DataFrame
    touched: Places


def empty_state() -> JoinState:
    """The state before the first event."""
    nothing = pl.from_arrow(EVENT_SCHEMA.empty_table())
    assert isinstance(nothing, pl.DataFrame)
    time = pl.lit(0, dtype=pl.Int64)
    nothing = nothing.with_columns(close_us=time, early_us=time, gone_us=time, forget_us=time, revision=pl.lit(0, dtype=pl.Int32))
    nothing = nothing.with_columns(
        key=pl.lit(0, dtype=pl.UInt64), task_row=pl.lit(0, dtype=pl.UInt32), place=pl.lit(-1, dtype=pl.Int32)
    ).clear()
    forgotten = nothing.select("decision_id", "key", "forget_us")
    return JoinState(nothing.select(_DECISION_COLUMNS), nothing.select(_FEEDBACK_COLUMNS), forgotten, {}, 0)


def taken_in(state: JoinState, judged: pl.DataFrame, *, config: JoinConfig) -> tuple[Taken, dict[str, int]]:
    """The state's decisions and feedback with the sound ones of these events, and what the events count as that are not held."""
    sound = judged.select("kind", "fault", "decision_id", key=pl.col("decision_id").hash())
    known = _matches(sound, state.decisions)
    place = np.full(sound.height, -1, dtype=np.int32)
    place[known["row"].to_numpy()] = known["place"].to_numpy()
    unforgotten = np.full(sound.height, True)
    unforgotten[_matches(sound, state.forgotten)["row"].to_numpy()] = False
    judged = judged.with_columns(sound["key"], place=pl.Series(place), unforgotten=pl.Series(unforgotten))
    decision, faultless = pl.col("kind") == "decision", pl.col("fault").is_null()
    fresh = judged.select(_NEW_COLUMNS).filter(decision & faultless)
    feedback = judged.select(*_FEEDBACK_COLUMNS[:_OWN], "hold_us", "key", "place", "unforgotten", "fault")
    feedback = feedback.filter(pl.col("kind").is_in(["impression", "reward"]) & faultless)
    decisions = _with_decisions(state.decisions, fresh)
    arrived, late = _arrivals(state, feedback)
    first = state.decisions.height
    feedback = _placed(pl.concat([state.feedback, arrived]), decisions[first:], first=first)
    touched = [fresh["place"].to_numpy(), feedback["place"].to_numpy()[state.feedback.height :]]
    if config.shares:
        touched.append(_sharing(state, decisions, fresh, arrived))
    # One more for those without a place, whose place is -1.
    marked = np.zeros(decisions.height + 1, dtype=bool)
    for places in touched:
        marked[places] = True
    repeats = state.decisions.height + fresh.height - decisions.height
    counts = plus(quarantined(judged), {"duplicates": repeats, "late": late})
    return Taken(decisions, feedback, np.flatnonzero(marked[:-1])), counts


def forgetting(state: JoinState) -> JoinState:
    """The state without what no event can change any more. Feedback that waited for a decision in vain counts as orphan."""
    now = state.watermark_us
    gone = state.decisions["gone_us"].to_numpy() <= now
    ended = state.feedback.select(ended=(pl.col("gone_us") <= now) & (pl.col("place") < 0))["ended"]
    if ended.any():
        orphans = state.feedback.filter(ended)
        shared = int(orphans.select(unattributed().sum()).item())
        counts = plus(state.counts, {"orphans": orphans.height - shared, "shared": shared})
        state = dataclasses.replace(state, feedback=state.feedback.filter(~ended), counts=counts)
    # Each time all that stays is copied; a decision that is gone changes nothing by staying.
    if not gone.any() or gone.mean() < _GONE_SHARE:
        return state
    theirs = pl.Series(np.append(gone, False)[state.feedback["place"].to_numpy()], dtype=pl.Boolean)
    feedback = state.feedback.filter(~theirs)
    ids = state.decisions.select("decision_id", "key", "forget_us").filter(pl.Series(gone))
    forgotten = pl.concat([state.forgotten, ids]).filter(pl.col("forget_us") > now)
    return _keeping(dataclasses.replace(state, feedback=feedback, forgotten=forgotten.rechunk()), kept=~gone)


def without(state: JoinState, deletions: pl.DataFrame) -> JoinState:
    """The state without what deletions cover."""
    feedback = state.feedback.filter(~erased_rows(state.feedback, deletions))
    kept = ~erased_rows(state.decisions, deletions)
    return _keeping(dataclasses.replace(state, feedback=feedback), kept=kept.to_numpy())


def plus(*counts: Mapping[str, int]) -> dict[str, int]:
    """The counts added up by name."""
    names = dict.fromkeys(name for part in counts for name in part)
    return {name: total for name in names if (total := sum(part.get(name, 0) for part in counts))}


def _keeping(state: JoinState, *, kept: np.ndarray[Any, Any]) -> JoinState:
    """The state with these decisions alone; feedback of the others waits."""
    moved = np.where(np.append(kept, False), np.cumsum(np.append(kept, False)) - 1, -1).astype(np.int32)
    place = pl.Series(moved[state.feedback["place"].to_numpy()], dtype=pl.Int32)
    decisions = state.decisions.filter(pl.Series(kept, dtype=pl.Boolean)).rechunk()
    return dataclasses.replace(state, decisions=decisions, feedback=state.feedback.with_columns(place=place).rechunk())


def _matches(rows: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Pairs of `row` and `place` with the same decision id."""
    if held.is_empty() or rows.is_empty():
        return pl.DataFrame(schema={"row": pl.UInt32, "place": pl.UInt32})
    pairs = rows.select("key").with_row_index("row").join(held.select("key").with_row_index("place"), on="key")
    # By a hash of 64 bits first, which is three times faster; that it is the same id must still be seen.
    same = rows["decision_id"].gather(pairs["row"]) == held["decision_id"].gather(pairs["place"])
    return pairs if same.all() else pairs.filter(same)


def _with_decisions(held: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """Held decisions with the new ones behind. Of the copies of one id the first logged stands: that answer was the caller's."""
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
    unknown = fresh.filter(pl.col("unforgotten")) if not fresh["unforgotten"].all() else fresh
    new = unknown.with_columns(**limits, revision=pl.lit(0, dtype=pl.Int32)).select(*_DECISION_COLUMNS, "place")
    copies = new.filter(pl.col("place") >= 0)
    if copies.height:
        held = _first_logged(held, copies)
        new = new.filter(pl.col("place") < 0)
    repeated = new["key"].is_duplicated()
    if repeated.any():
        one_each = new.filter(repeated).sort("append_time_us", "payload").unique("decision_id", keep="first", maintain_order=True)
        new = pl.concat([new.filter(~repeated), one_each])
    return pl.concat([held, new.drop("place")])


def _first_logged(held: pl.DataFrame, copies: pl.DataFrame) -> pl.DataFrame:
    """Held decisions, those replaced of which a copy was logged earlier."""
    theirs = held.select("append_time_us", "payload")[copies["place"].to_numpy()]
    append, payload = pl.col("append_time_us"), pl.col("payload")
    both = copies.hstack(theirs.rename({"append_time_us": "held_append_us", "payload": "held_payload"}))
    earlier = (append < pl.col("held_append_us")) | ((append == pl.col("held_append_us")) & (payload < pl.col("held_payload")))
    better = both.filter(earlier).select(copies.columns)
    if better.is_empty():
        return held
    first = better.sort("append_time_us", "payload").unique("place", keep="first", maintain_order=True)
    old = held.with_row_index("place").with_columns(pl.col("place").cast(pl.Int32))
    revision = old["revision"].gather(first["place"])
    replaced = pl.concat([old.join(first, on="place", how="anti"), first.with_columns(revision).select(old.columns)])
    return replaced.sort("place").drop("place")


def _arrivals(state: JoinState, fresh: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """New feedback that can still be used, and how much came when all that it could belong to was forgotten."""
    timed = fresh.with_columns(gone_us=pl.col("event_time_us") + pl.col("hold_us"))
    usable = timed.filter(((pl.col("gone_us") > state.watermark_us) | (pl.col("place") >= 0)) & pl.col("unforgotten"))
    return usable.select(_FEEDBACK_COLUMNS), fresh.height - usable.height


def _placed(feedback: pl.DataFrame, new: pl.DataFrame, *, first: int) -> pl.DataFrame:
    """The feedback, with the places of those that waited for one of the new decisions, which begin at place `first`."""
    place = feedback["place"].to_numpy()
    waiting = np.flatnonzero(place < 0)
    if not waiting.size or new.is_empty():
        return feedback
    found = _matches(feedback.select("key", "decision_id")[waiting], new)
    place = place.copy()
    place[waiting[found["row"].to_numpy()]] = found["place"].to_numpy() + first
    return feedback.with_columns(place=pl.Series(place, dtype=pl.Int32))


def _sharing(state: JoinState, decisions: pl.DataFrame, fresh: pl.DataFrame, arrived: pl.DataFrame) -> Places:
    """Places of the decisions that may share a reward with what is new: by unit."""
    waiting = state.feedback.filter(unattributed()).select("unit_id").unique()
    newly = fresh.join(waiting, on="unit_id", how="semi")["unit_id"]
    units = pl.concat([newly, arrived.filter(unattributed())["unit_id"]])
    return decisions.select(place=pl.arg_where(pl.col("unit_id").is_in(units.implode())))["place"].to_numpy()
