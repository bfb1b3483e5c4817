"""Which slots of a slate were seen, and whether the slate was shown otherwise than decided. Pure, columnar."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Exposure", "expose", "places", "slot_offsets"]

Times = np.ndarray[Any, np.dtype[np.int64]]


class Exposure(NamedTuple):
    """`seen`: one column, `seen_us`, parallel to the places (null = not seen); `times`: of each decision's impressions, in order; rows by
    their number; impressions that contradict, with their `reason`; the partitions of those that count."""

    seen: pl.DataFrame
    times: pa.Array
    overridden_rows: np.ndarray[Any, Any]
    corrected_rows: np.ndarray[Any, Any]
    refused_events: pl.DataFrame
    counted: pl.Series


def slot_offsets(body: pa.Table) -> np.ndarray[Any, Any]:
    """Where the slots of each decision begin in a flat list of all, int32 [decisions + 1]."""
    lengths = pc.list_value_length(body["slot_action"]).to_numpy()
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def places(body: pa.Table) -> pl.DataFrame:
    """Every slot of every decision: row, slot, and the action that was `placed` there. Ordered by row and slot."""
    offsets = slot_offsets(body)
    lengths = np.diff(offsets)
    rows = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
    slots = np.arange(offsets[-1], dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    return pl.DataFrame({"row": rows, "slot": slots, "placed": _flat(body["slot_action"])})


def expose(impressions: pl.DataFrame, *, places: pl.DataFrame, body: pa.Table) -> Exposure:
    """Lays impressions (one copy each, inside the window, with `row` and `corrects`) over the slates.

    An impression that names no slot is of the whole slate as decided; one that shows a candidate elsewhere than decided overrides its
    row; one that shows what was no candidate is refused whole.
    """
    shown = _entries(impressions.with_row_index("impression"), places=places, offsets=slot_offsets(body))
    misplaced = shown.filter(~pl.col("as_decided"))
    refused = _of_no_candidate(misplaced, body=body)
    standing = shown.filter(~pl.col("impression").is_in(refused.implode())) if refused.len() else shown
    return Exposure(
        seen=_first_seen(standing.filter("as_decided"), count=places.height),
        times=_times(_without(impressions, refused), rows=body.num_rows),
        overridden_rows=standing.filter(~pl.col("as_decided"))["row"].unique().to_numpy(),
        corrected_rows=standing.filter("corrects")["row"].unique().to_numpy(),
        refused_events=_numbered(impressions, refused).with_columns(reason=pl.lit("no_candidate")),
        counted=_without(impressions, refused)["partition"],
    )


def _numbered(impressions: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    return impressions.with_row_index("impression").filter(pl.col("impression").is_in(numbers.implode()))


def _without(impressions: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    if numbers.is_empty():
        return impressions
    return impressions.with_row_index("impression").filter(~pl.col("impression").is_in(numbers.implode()))


def _first_seen(entries: pl.DataFrame, *, count: int) -> pl.DataFrame:
    """When each of the places was first seen, null where it never was."""
    at, never = entries["at"].to_numpy(), np.full(count, True)
    never[at] = False
    times = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(times, at, entries["event_time_us"].to_numpy())
    return pl.DataFrame({"seen_us": pl.Series(pa.array(times, mask=never))})


def _times(standing: pl.DataFrame, *, rows: int) -> pa.Array:
    """When each decision's slate was shown, once an impression that counts: a cached slate is shown again and again."""
    row, times = standing["row"].to_numpy(), standing["event_time_us"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_by_row(times, row=row, rows=rows)))


def _by_row(times: Times, *, row: np.ndarray[Any, Any], rows: int) -> Times:
    """The times in the order of row and time: both as one number, if it is one of 64 bits, which sorts nine times faster than two do."""
    if not times.size:
        return times
    base, span = int(times.min()), int(times.max()) - int(times.min()) + 1
    if rows * span > np.iinfo(np.int64).max:
        return times[np.lexsort((times, row))]
    both = row * np.int64(span) + (times - base)
    both.sort()
    return both % span + base


def _entries(impressions: pl.DataFrame, *, places: pl.DataFrame, offsets: np.ndarray[Any, Any]) -> pl.DataFrame:
    """One row for each slot that an impression says was seen, `at` which of the places (null = none), and whether that is `as_decided`."""
    base = ["impression", "row", "event_time_us", "corrects"]
    whole = pl.col("seen_slots").list.len() == 0
    named = impressions.filter(~whole).select(*base, slot="seen_slots", action="seen_actions").explode("slot", "action")
    row, slot = named["row"].to_numpy(), named["slot"].fill_null(-1).to_numpy()
    at = offsets[row] + slot
    exists = (slot >= 0) & (at < offsets[1:][row])
    named = named.with_columns(at=pl.Series(pa.array(at, pa.int64(), mask=~exists)))
    named = named.with_columns(placed=places["placed"].gather(named["at"]))
    entries = named.select(*base, "at", "action", "placed")
    if named.height < impressions.height or impressions.select(whole.any()).item():
        every = places.with_row_index("at").select("row", pl.col("at").cast(pl.Int64), "placed", action="placed")
        of_slate = impressions.filter(whole).select(base).join(every, on="row")
        entries = pl.concat([entries, of_slate.select(entries.columns)])
    # An entry without an action says that the slot was seen as decided.
    same = (pl.col("action") == "") | (pl.col("action") == pl.col("placed"))
    return entries.with_columns(as_decided=(same & pl.col("placed").is_not_null()).fill_null(False))


def _of_no_candidate(misplaced: pl.DataFrame, *, body: pa.Table) -> pl.Series:
    """Numbers of the impressions that show what was no candidate. A decision that lists none (a catalogue) vouches for every action."""
    rows = misplaced["row"].unique()
    if rows.is_empty():
        return pl.Series("impression", [], dtype=pl.UInt32)
    taken = body.select(["candidate_actions", "slot_action"]).take(pa.array(rows.to_numpy()))
    lists = pl.DataFrame({"row": rows, "listed": pl.Series(taken["candidate_actions"].combine_chunks())})
    candidates = lists.explode("listed").drop_nulls().select("row", action="listed")
    vouched = lists.filter(pl.col("listed").list.len() == 0).select("row")
    return misplaced.join(candidates, on=["row", "action"], how="anti").join(vouched, on="row", how="anti")["impression"].unique()


def _flat(lists: pa.ChunkedArray) -> pl.Series:
    return pl.Series(pc.list_flatten(lists))
