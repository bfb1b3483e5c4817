"""Rewards by slot, by action or for the slate become named outcomes, and these the scalar reward. Pure, columnar."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from protos.observations import OUTCOME_TYPE

__all__ = ["Attributed", "Scored", "attribute", "score"]

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Attributed(NamedTuple):
    """Rewards that count, each with its row and its slot (null = the slate); those that contradict, with their `reason`.

    `counted` and `outside`: the partitions of rewards that count, and of those outside their window, parts of shared ones left out.
    """

    events_frame: pl.DataFrame
    refused_events: pl.DataFrame
    counted: pl.Series
    outside: pl.Series


class Scored(NamedTuple):
    """Outcomes [rows] (lists), the scalar rewards [rows] and, flat over the places, the slots' rewards and whether they count."""

    outcomes: pa.Array
    reward: Floats
    slot_reward: Floats
    counted: np.ndarray[Any, np.dtype[np.bool_]]


def attribute(rewards: pl.DataFrame, *, places: pl.DataFrame, outcomes: pl.DataFrame) -> Attributed:
    """Finds window and slot of each reward (one copy each, with `row`, `decided_us` and `corrects`).

    A slot stands as given, if the slate has it and its action is the one named (if one is); an action alone finds its slot.
    """
    known = rewards.join(outcomes.drop("tenant", "task"), on=["task_row", "name"], how="inner")
    # Most decisions have no reward.
    places = places.filter(pl.Series(np.isin(places["row"].to_numpy(), known["row"].to_numpy(), kind="table"), dtype=pl.Boolean))
    by_slot = known.join(places, on=["row", "slot"], how="left")
    by_action = places.unique(["row", "placed"], keep="first").select("row", action="placed", found="slot", found_us="seen_us")
    by_slate = places.group_by("row").agg(slate_us=pl.col("seen_us").min())
    resolved = by_slot.join(by_action, on=["row", "action"], how="left").join(by_slate, on="row", how="left").with_columns(_fault())
    in_time = resolved.select(in_time=_inside())["in_time"]
    outside = resolved.filter(~in_time & resolved["credit"].is_null())["partition"]
    inside = resolved.filter(in_time)
    standing = inside.filter(pl.col("fault").is_null())
    slot = pl.when(~pl.col("for_slate")).then(pl.coalesce("slot", "found")).alias("slot")
    direct = inside.filter(pl.col("credit").is_null())
    faulty = direct.drop_nulls("fault").with_columns(reason="fault")
    counted = direct.filter(pl.col("fault").is_null())["partition"]
    return Attributed(standing.with_columns(slot), faulty, counted, outside)


def _inside() -> pl.Expr:
    """Is a reward inside its window? One that is anchored at the impression has none where nothing was seen."""
    named = pl.col("slot").is_not_null() | (pl.col("action") != "")
    of_slot = pl.when(named & ~pl.col("for_slate")).then(pl.coalesce("seen_us", "found_us")).otherwise("slate_us")
    begins_us = pl.when("anchored").then(of_slot).otherwise("decided_us")
    since = pl.col("event_time_us") - begins_us
    return ((since < pl.col("outcome_us")) & (since >= -pl.col("grace_us"))).fill_null(False)


def _fault() -> pl.Expr:
    named, slotted = pl.col("action") != "", pl.col("slot").is_not_null()
    return (
        pl.when("for_slate")
        .then(None)
        .when(slotted & pl.col("placed").is_null())
        .then(pl.lit("no_such_slot"))
        .when(slotted & named & (pl.col("action") != pl.col("placed")))
        .then(pl.lit("slot_and_action_differ"))
        .when(~slotted & named & pl.col("found").is_null())
        .then(pl.lit("action_not_in_slate"))
        .alias("fault")
    )


def score(heads: pl.DataFrame, rewards: pl.DataFrame, *, places: pl.DataFrame, outcomes: pl.DataFrame, open_yet: bool) -> Scored:
    """Aggregates the rewards of each outcome and slot, lets defaults stand where none came, and weighs them.

        reward[slot] = sum over outcomes of weight * value;  reward = sum of the slots that count + weighed outcomes of the slate

    `heads`: row, task_row. `places`: row, slot, seen_us; a place counts when it was seen. `open_yet`: a window may still be open.
    """
    task = heads.select("row", "task_row", "now_us", decided_us="event_time_us")
    all_slots = heads["all_slots"].fill_null(False).gather(places["row"])
    counted = places.select("row", "slot", counted=pl.col("seen_us").is_not_null() | all_slots)
    found = _aggregated(rewards)
    entries = _completed(found, _expected(task, counted, outcomes).select(found.columns))
    entries = _provisional(entries, task, outcomes) if open_yet else entries
    return _scored(entries, counted=counted, rows=heads.height)


def _provisional(entries: pl.DataFrame, task: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """The entries, with `provisional` as the status of those whose window is still open."""
    closes = outcomes.select("task_row", "order", "closes_us")
    timed = entries.join(task, on="row", how="left", maintain_order="left")
    timed = timed.join(closes, on=["task_row", "order"], how="left", maintain_order="left")
    still_open = pl.col("decided_us") + pl.col("closes_us") > pl.col("now_us")
    return timed.with_columns(status=pl.when(still_open).then(pl.lit("provisional")).otherwise("status")).select(entries.columns)


def _aggregated(rewards: pl.DataFrame) -> pl.DataFrame:
    """One entry for each outcome of a slot, or of the slate, that had a reward. First and last by (event time, event id)."""
    value, by = pl.col("value"), pl.col("aggregate").first()
    ways = {"first": value.first(), "last": value.last(), "sum": value.sum(), "max": value.max(), "mean": value.mean()}
    chosen = pl.coalesce([pl.when(by == name).then(way) for name, way in ways.items()] + [pl.len().cast(pl.Float64)])
    return (
        rewards.sort("event_time_us", "event_id")
        .group_by("row", "order", "name", "slot", "weight", maintain_order=True)
        .agg(value=chosen, count=pl.len().cast(pl.Int32), corrects=pl.col("corrects").any())
        .with_columns(status=pl.when("corrects").then(pl.lit("corrected")).otherwise(pl.lit("final")))
        .drop("corrects")
    )


def _expected(task: pl.DataFrame, counted: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """The entries that every row has, with their defaults: one for each slot that counts, or one for the slate."""
    wanted = outcomes.select("task_row", "order", "name", "weight", "for_slate", value="default")
    slots = counted.filter("counted").select("row", "slot")
    slots = slots.with_columns(task["task_row"].gather(slots["row"]))
    by_slot = slots.join(wanted.filter(~pl.col("for_slate")), on="task_row")
    by_slate = task.select("row", "task_row").join(wanted.filter("for_slate"), on="task_row")
    both = pl.concat([by_slot, by_slate.with_columns(slot=pl.lit(None, dtype=pl.Int32)).select(by_slot.columns)])
    return both.with_columns(status=pl.lit("missing"), count=pl.lit(0, dtype=pl.Int32))


def _completed(found: pl.DataFrame, expected: pl.DataFrame) -> pl.DataFrame:
    """The entries that were found and, where none was, the expected ones, by row, order and slot; that of the slate is the last."""
    both = pl.concat([found, expected])
    row, order, slot = (both[name].fill_null(-1).to_numpy().astype(np.int64) for name in ("row", "order", "slot"))
    # The three as one number: to look it up and to sort by it takes a third of what three columns do.
    slots = slot.max(initial=-1) + 2
    place = (row * (order.max(initial=0) + 1) + order) * slots + np.where(slot < 0, slots - 1, slot)
    kept = np.concatenate([np.full(found.height, True), ~np.isin(place[found.height :], place[: found.height])])
    sequence = np.flatnonzero(kept)[np.argsort(place[kept], kind="stable")]
    return both.select(pl.all().gather(sequence))


def _scored(entries: pl.DataFrame, *, counted: pl.DataFrame, rows: int) -> Scored:
    mask = counted["counted"].to_numpy()
    row_of_place = counted["row"].to_numpy()
    first_place = _offsets(row_of_place, rows=rows)
    row, slot = entries["row"].to_numpy(), entries["slot"].fill_null(-1).to_numpy()
    worth = (entries["value"] * entries["weight"]).to_numpy()
    slotted = slot >= 0
    # bincount adds in the order of its input, so the sums are the same to the bit however the events came.
    slot_reward = np.bincount(first_place[row[slotted]] + slot[slotted], weights=worth[slotted], minlength=len(mask))
    reward = np.bincount(row_of_place[mask], weights=slot_reward[mask], minlength=rows)
    reward = reward + np.bincount(row[~slotted], weights=worth[~slotted], minlength=rows)
    return Scored(_lists(entries, rows=rows), np.asarray(reward, np.float64), np.asarray(slot_reward, np.float64), mask)


def _lists(entries: pl.DataFrame, *, rows: int) -> pa.Array:
    columns = [entries[field.name].to_arrow().cast(field.type) for field in OUTCOME_TYPE]
    structs = pa.StructArray.from_arrays(columns, fields=list(OUTCOME_TYPE))
    return pa.ListArray.from_arrays(pa.array(_offsets(entries["row"].to_numpy(), rows=rows).astype(np.int32)), structs)


def _offsets(row: np.ndarray[Any, Any], *, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the entries of each row begin, and where the last ends, in a list that goes row by row."""
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
