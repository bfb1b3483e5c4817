"""Which slots of a slate were seen, and whether the slate was shown otherwise than decided. Pure, columnar."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Exposure", "expose", "places", "slot_offsets"]


class Exposure(NamedTuple):
    """`seen`: one column, `seen_us`, parallel to the places (null = not seen); `times`: of each decision's impressions, in order; rows by
    their number; events by what they counted as."""

    seen: pl.DataFrame
    times: pa.Array
    overridden_rows: np.ndarray[Any, Any]
    corrected_rows: np.ndarray[Any, Any]
    refused: Mapping[str, int]
    refused_events: pl.DataFrame
    events: int


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
    shown = _entries(impressions.with_row_index("impression"), places=places)
    misplaced = shown.filter(~pl.col("as_decided"))
    refused = _of_no_candidate(misplaced, body=body)
    standing = shown.filter(~pl.col("impression").is_in(refused.implode())) if refused.len() else shown
    first = standing.filter("as_decided").group_by("row", "slot").agg(seen_us=pl.col("event_time_us").min())
    seen = places.join(first, on=["row", "slot"], how="left", maintain_order="left").select("seen_us")
    return Exposure(
        seen=seen,
        times=_times(standing, rows=body.num_rows),
        overridden_rows=standing.filter(~pl.col("as_decided"))["row"].unique().to_numpy(),
        corrected_rows=standing.filter("corrects")["row"].unique().to_numpy(),
        refused={"no_candidate": refused.len()} if refused.len() else {},
        refused_events=_numbered(impressions, refused).with_columns(reason=pl.lit("no_candidate")),
        events=impressions.height - refused.len(),
    )


def _numbered(impressions: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    return impressions.with_row_index("impression").filter(pl.col("impression").is_in(numbers.implode()))


def _times(standing: pl.DataFrame, *, rows: int) -> pa.Array:
    """When each decision's slate was shown, once an impression that counts: a cached slate is shown again and again."""
    shown = standing.select("impression", "row", "event_time_us").unique().sort("row", "event_time_us")
    offsets = np.searchsorted(shown["row"].to_numpy(), np.arange(rows + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), shown["event_time_us"].to_arrow())


def _entries(impressions: pl.DataFrame, *, places: pl.DataFrame) -> pl.DataFrame:
    """One row for each slot that an impression says was seen, and whether that is `as_decided`."""
    base = ["impression", "row", "event_time_us", "corrects"]
    whole = pl.col("seen_slots").list.len() == 0
    all_slots = impressions.filter(whole).select(base).join(places, on="row").with_columns(action="placed")
    named = impressions.filter(~whole).select(*base, slot="seen_slots", action="seen_actions").explode("slot", "action")
    named = named.join(places, on=["row", "slot"], how="left")
    columns = [*base, "slot", "action", "placed"]
    entries = pl.concat([all_slots.select(columns), named.select(columns)])
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
