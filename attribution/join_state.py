"""What the join remembers, what a step takes into it, and what it lets go again. Pure.

A held decision is known by its *place*, its row in the frame of decisions: an event looks its decision up once, when one of the two comes,
and from then on everything is found by place. Places change only where decisions are let go, and all at once. All partitions lie in the
same frames, but an event finds a decision of its own partition only: another worker may have the others.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from attribution.admission import quarantined
from attribution.credit import unattributed
from attribution.erasure import erased_rows
from attribution.events import EVENT_SCHEMA
from attribution.repeats import repeats
from attribution.settings import JoinConfig
from attribution.tally import Counts, minus, plus, tally

__all__ = [
    "COUNTS",
    "JoinState",
    "Marks",
    "Places",
    "Taken",
    "empty_state",
    "forgetting",
    "later",
    "marks_of",
    "merged",
    "of_partitions",
    "rows_at",
    "taken_in",
    "without",
]

# What an event can count as, beside the reasons of `admission.REASONS`. The sum over all is the feedback that is not held any more.
# `shared`: rewards that named no decision, counted when none takes them any more; their parts count as nothing else.
COUNTS = ("attributed", "duplicates", "late", "orphans", "outside_window", "shared")

Places = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
Times = np.ndarray[Any, np.dtype[np.int64]]

# Watermarks by partition, microseconds since the epoch, or one for every partition.
Marks = int | Mapping[int, int]

_FEEDBACK_COLUMNS = (
    "kind",
    "partition",
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
    # Hash of partition and decision id, and the place of the decision; -1 = it has not come.
    "key",
    "place",
)
_DECISION_COLUMNS = (
    "partition",
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
_IDENTITY = ("partition", "decision_id")
_LIMITS = ("window_us", "provisional_us", "late_us", "hold_us", "credit_rule")
_NEW_COLUMNS = ("kind", "fault", *_DECISION_COLUMNS[:8], *_LIMITS, "key", "task_row", "place", "unforgotten")
# Decisions are forgotten when at least this share of those held can be.
_GONE_SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class JoinState:
    """What the join remembers of its partitions.

    `decisions`: open and held decisions with `revision` (0 = open). `feedback`: impressions and rewards that a held decision uses or a
    coming one may. `forgotten`: ids of decisions that take nothing any more, kept while an event could still name them. `counts`: events
    by what they counted as, since the beginning. `watermark_us`: those of the last step.
    """

    decisions: pl.DataFrame
    feedback: pl.DataFrame
    forgotten: pl.DataFrame
    counts: Counts
    watermark_us: Marks


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
    forgotten = nothing.select("partition", "decision_id", "key", "forget_us")
    return JoinState(nothing.select(_DECISION_COLUMNS), nothing.select(_FEEDBACK_COLUMNS), forgotten, {}, 0)


def taken_in(state: JoinState, judged: pl.DataFrame, *, config: JoinConfig) -> tuple[Taken, Counts]:
    """The state's decisions and feedback with the sound ones of these events, and what the events count as that are not held."""
    sound = judged.select("partition", "decision_id", key=_key())
    known = _matches(sound, state.decisions)
    place = np.full(sound.height, -1, dtype=np.int32)
    place[known["row"].to_numpy()] = known["place"].to_numpy()
    # What is held is not forgotten.
    others, unforgotten = np.flatnonzero(place < 0), np.full(sound.height, True)
    unforgotten[others[_matches(rows_at(sound, others), state.forgotten)["row"].to_numpy()]] = False
    judged = judged.with_columns(sound["key"], place=pl.Series(place), unforgotten=pl.Series(unforgotten))
    decision, faultless = pl.col("kind") == "decision", pl.col("fault").is_null()
    fresh = judged.select(_NEW_COLUMNS).filter(decision & faultless)
    feedback = judged.select(*_FEEDBACK_COLUMNS[:_OWN], "hold_us", "key", "place", "unforgotten", "fault")
    feedback = feedback.filter(pl.col("kind").is_in(["impression", "reward"]) & faultless)
    decisions = _with_decisions(state.decisions, fresh)
    arrived = _arrivals(state, feedback)
    first, feedback_in = state.decisions.height, feedback["partition"]
    feedback = _placed(pl.concat([state.feedback, arrived]), decisions.slice(first), first=first)
    touched = [fresh["place"].to_numpy(), feedback["place"].to_numpy()[state.feedback.height :]]
    if config.shares:
        touched.append(_sharing(state, decisions, fresh, arrived))
    # One more for those without a place, whose place is -1.
    marked = np.zeros(decisions.height + 1, dtype=bool)
    for places in touched:
        marked[places] = True
    repeated = minus(tally("duplicates", fresh["partition"]), tally("duplicates", decisions["partition"][first:]))
    late = minus(tally("late", feedback_in), tally("late", arrived["partition"]))
    counts = plus(quarantined(judged), repeated, late)
    return Taken(decisions, feedback, np.flatnonzero(marked[:-1])), counts


def forgetting(state: JoinState) -> JoinState:
    """The state without what no event can change any more. Feedback that waited for a decision in vain counts as orphan."""
    gone = _past(state.decisions, "gone_us", state.watermark_us)
    ended = pl.Series(_past(state.feedback, "gone_us", state.watermark_us)) & (state.feedback["place"] < 0)
    if ended.any():
        orphans = state.feedback.select("partition", shared=unattributed()).filter(ended)
        shared = tally("shared", orphans.filter("shared")["partition"])
        counts = plus(state.counts, shared, tally("orphans", orphans.filter(~pl.col("shared"))["partition"]))
        state = dataclasses.replace(state, feedback=state.feedback.filter(~ended), counts=counts)
    # Each time all that stays is copied; a decision that is gone changes nothing by staying.
    if not gone.any() or gone.mean() < _GONE_SHARE:
        return state
    theirs = pl.Series(np.append(gone, False)[state.feedback["place"].to_numpy()], dtype=pl.Boolean)
    feedback = state.feedback.filter(~theirs)
    ids = state.decisions.select("partition", "decision_id", "key", "forget_us").filter(pl.Series(gone))
    forgotten = pl.concat([state.forgotten, ids])
    forgotten = forgotten.filter(~pl.Series(_past(forgotten, "forget_us", state.watermark_us), dtype=pl.Boolean))
    return _keeping(dataclasses.replace(state, feedback=feedback, forgotten=forgotten.rechunk()), kept=~gone)


def without(state: JoinState, deletions: pl.DataFrame) -> JoinState:
    """The state without what deletions cover."""
    feedback = state.feedback.filter(~erased_rows(state.feedback, deletions))
    kept = ~erased_rows(state.decisions, deletions)
    return _keeping(dataclasses.replace(state, feedback=feedback), kept=kept.to_numpy())


def of_partitions(state: JoinState, numbers: Collection[int]) -> JoinState:
    """The state of these partitions alone: the others are another worker's now."""
    kept = state.decisions["partition"].is_in(list(numbers)).to_numpy()
    feedback, forgotten = (frame.filter(frame["partition"].is_in(list(numbers))) for frame in (state.feedback, state.forgotten))
    counts = {number: named for number, named in state.counts.items() if number in numbers}
    return _keeping(dataclasses.replace(state, feedback=feedback, forgotten=forgotten, counts=counts), kept=kept)


def merged(state: JoinState, other: JoinState) -> JoinState:
    """Both states as one; they have no partition in common."""
    place = pl.when(pl.col("place") >= 0).then(pl.col("place") + state.decisions.height).otherwise("place")
    moved = other.feedback.with_columns(place=place.cast(pl.Int32))
    return JoinState(
        pl.concat([state.decisions, other.decisions]),
        pl.concat([state.feedback, moved]),
        pl.concat([state.forgotten, other.forgotten]),
        {**state.counts, **other.counts},
        later(state.watermark_us, other.watermark_us),
    )


def marks_of(partitions: pl.Series, marks: Marks) -> Times:
    """The watermark of each entry, which is its partition; 0 where there is none."""
    if isinstance(marks, int):
        return np.full(partitions.len(), marks, dtype=np.int64)
    by_number = np.zeros(max([-1, *marks]) + 1, dtype=np.int64)
    by_number[list(marks)] = list(marks.values())
    numbers = partitions.to_numpy()
    if numbers.size and numbers.max() >= by_number.size:
        by_number = np.append(by_number, np.zeros(numbers.max() + 1 - by_number.size, dtype=np.int64))
    return by_number[numbers]


def rows_at(frame: pl.DataFrame, places: Places) -> pl.DataFrame:
    """The rows at these places, which ascend: a filter takes a seventh of what gathering from several chunks does."""
    wanted = np.zeros(frame.height, dtype=bool)
    wanted[places] = True
    return frame.filter(pl.Series(wanted, dtype=pl.Boolean))


def _gathered(frame: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    """The rows at these places, in any order. Not by an index of the frame, which copies all of its chunks into one first."""
    return frame.select(pl.all().gather(places))


def later(one: Marks, other: Marks) -> Marks:
    """The later watermark of each partition."""
    if isinstance(one, int) and isinstance(other, int):
        return max(one, other)
    numbers = {*(one if not isinstance(one, int) else ()), *(other if not isinstance(other, int) else ())}
    return {number: max(_mark(one, number), _mark(other, number)) for number in numbers}


def _mark(marks: Marks, number: int) -> int:
    return marks if isinstance(marks, int) else marks.get(number, 0)


def _past(frame: pl.DataFrame, column: str, marks: Marks) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Has event time reached this time?"""
    return frame[column].to_numpy() <= marks_of(frame["partition"], marks)


def _key() -> pl.Expr:
    """A hash of partition and decision id."""
    # Times an odd number, so that partitions change all bits.
    return pl.col("decision_id").hash() ^ (pl.col("partition").cast(pl.UInt64) * pl.lit(0x9E3779B97F4A7C15, dtype=pl.UInt64))


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
    mine, theirs = _gathered(rows.select(_IDENTITY), pairs["row"]), _gathered(held.select(_IDENTITY), pairs["place"])
    same = (mine["decision_id"] == theirs["decision_id"]) & (mine["partition"] == theirs["partition"])
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
    repeated = repeats(new["key"])
    if repeated is not None:
        one_each = new.filter(repeated).sort("append_time_us", "payload").unique(_IDENTITY, keep="first", maintain_order=True)
        new = pl.concat([new.filter(~repeated), one_each])
    return pl.concat([held, new.drop("place")])


def _first_logged(held: pl.DataFrame, copies: pl.DataFrame) -> pl.DataFrame:
    """Held decisions, those replaced of which a copy was logged earlier."""
    theirs = _gathered(held.select("append_time_us", "payload"), copies["place"])
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


def _arrivals(state: JoinState, fresh: pl.DataFrame) -> pl.DataFrame:
    """New feedback that can still be used, without what came when all that it could belong to was forgotten."""
    timed = fresh.with_columns(gone_us=pl.col("event_time_us") + pl.col("hold_us"))
    in_vain = pl.Series(_past(timed, "gone_us", state.watermark_us), dtype=pl.Boolean) & (timed["place"] < 0) | ~timed["unforgotten"]
    usable = timed.select(_FEEDBACK_COLUMNS)
    return usable.filter(~in_vain) if in_vain.any() else usable


def _placed(feedback: pl.DataFrame, new: pl.DataFrame, *, first: int) -> pl.DataFrame:
    """The feedback, with the places of those that waited for one of the new decisions, which begin at place `first`."""
    place = feedback["place"].to_numpy()
    waiting = np.flatnonzero(place < 0)
    if not waiting.size or new.is_empty():
        return feedback
    found = _matches(rows_at(feedback.select("key", *_IDENTITY), waiting), new)
    place = place.copy()
    place[waiting[found["row"].to_numpy()]] = found["place"].to_numpy() + first
    return feedback.with_columns(place=pl.Series(place, dtype=pl.Int32))


def _sharing(state: JoinState, decisions: pl.DataFrame, fresh: pl.DataFrame, arrived: pl.DataFrame) -> Places:
    """Places of the decisions that may share a reward with what is new: by unit."""
    unit = ["partition", "unit_id"]
    waiting = state.feedback.filter(unattributed()).select(unit).unique()
    newly = fresh.select(unit).join(waiting, on=unit, how="semi")
    units = pl.concat([newly, arrived.filter(unattributed()).select(unit)]).unique()
    theirs = decisions.select(unit).with_row_index("place").join(units, on=unit, how="semi", maintain_order="left")
    return theirs["place"].to_numpy()
