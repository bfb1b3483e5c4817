"""Logged decisions out of the observations table, as arrays. Pure: tables in, arrays out.

Out of every estimate, and counted: rows that were shown otherwise than decided (`overridden`), that the log did not take
(`unlogged`), and that a fallback decided (`fallback`: no policy of the store drew them).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ope.errors import SourceError
from ope.rows import Floats, Keys, unit_keys
from protos.task import TaskFile

__all__ = ["COLUMNS", "Observed", "latest", "longest_window_us", "observed", "padded", "settled", "usable"]

# What `observed` reads; small beside the contexts, which only the scoring of new rows needs.
COLUMNS = (
    "decision_id",
    "decision_time_us",
    "unit_id",
    "slot_numerator",
    "slot_reward",
    "slot_seen",
    "reward",
    "outcomes",
    "overridden",
    "logged",
    "fallback",
    "status",
    "revision",
)
_SECOND_US = 1_000_000
_SETTLED = ("final", "corrected")


class Observed(NamedTuple):
    """n decisions of at most L slots, oldest first."""

    decision_id: list[bytes]
    decision_time_us: npt.NDArray[np.int64]
    unit: Keys
    # Logged conditional numerators out of 2^31, f64[n, L]; 0 where there is no such slot.
    numerator: Floats
    # bool[n, L]: the slot was decided.
    present: npt.NDArray[np.bool_]
    # Metric of each slot, f64[n, L]: 0 where it was not seen; what belongs to the whole slate stands in its last slot.
    reward: Floats
    # 1 where the slot was seen, 0 where not, f64[n, L].
    seen: Floats


def longest_window_us(task: TaskFile) -> int:
    """The longest time, in microseconds, for which a decision waits for its impressions and rewards; a grace period is added.

    Raises SourceError if a window of the task is no number.
    """
    outcomes, joining = task.section("rewards").get("outcomes") or {}, task.section("attribution")
    windows = {f"rewards.outcomes.{name}.window_s": (outcome or {}).get("window_s", 0.0) for name, outcome in outcomes.items()}
    windows |= {f"attribution.{key}": joining.get(key, 0.0) for key in ("impression_window_s", "grace_s")}
    for name, seconds in windows.items():
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise SourceError(f"{name}: {seconds!r} is no number of seconds; mend the task's file")
    grace = windows.pop("attribution.grace_s")
    return round((max(windows.values()) + grace) * _SECOND_US)


def latest(revisions: pa.Table) -> pa.Table:
    """The latest revision of each decision, oldest decision first."""
    keys = ["decision_id", "revision", "decision_time_us"]
    order = pl.DataFrame({"row": range(revisions.num_rows), **{key: pl.from_arrow(_combined(revisions[key])) for key in keys}})
    newest = order.sort("decision_id", "revision").unique("decision_id", keep="last")
    return revisions.take(newest.sort("decision_time_us", "decision_id")["row"].to_arrow())


def settled(rows: pa.Table) -> pa.Table:
    """The rows before the first whose windows are still open: choosing the closed ones among later rows would choose by reward."""
    open_rows = np.flatnonzero(~pc.is_in(rows["status"], value_set=pa.array(_SETTLED)).to_numpy(zero_copy_only=False))
    if len(open_rows) == 0:
        return rows
    first_open = rows["decision_time_us"][int(open_rows[0])].as_py()
    return rows.filter(pc.field("decision_time_us") < first_open)


def usable(rows: pa.Table) -> tuple[pa.Table, Mapping[str, int]]:
    """The rows that enter estimates, and how many were left out, by reason (the first that applies)."""
    left_out = {
        "overridden": _flags(rows["overridden"]),
        "unlogged": ~_flags(rows["logged"]),
        "fallback": rows["fallback"].to_numpy() != 0,
    }
    counts, kept = {}, np.ones(rows.num_rows, bool)
    for reason, flags in left_out.items():
        counts[reason] = int((kept & flags).sum())
        kept &= ~flags
    return rows.filter(pa.array(kept)), counts


def observed(rows: pa.Table, *, metric: str) -> Observed:
    """The arrays of a table with COLUMNS. `metric` is `reward` or the name of an outcome.

    Raises SourceError if no row has an outcome of that name.
    """
    numerator, present = padded(rows["slot_numerator"])
    return Observed(
        decision_id=rows["decision_id"].to_pylist(),
        decision_time_us=rows["decision_time_us"].to_numpy(),
        unit=unit_keys(rows["unit_id"].to_pylist()),
        numerator=numerator,
        present=present,
        reward=_rewards(rows, present) if metric == "reward" else _outcome(rows, present, metric),
        seen=_like(padded(rows["slot_seen"])[0], present),
    )


def _rewards(rows: pa.Table, present: npt.NDArray[np.bool_]) -> Floats:
    by_slot = _like(padded(rows["slot_reward"])[0], present)
    slate = rows["reward"].to_numpy() - by_slot.sum(axis=1)
    return _on_last(by_slot, present, slate)


def _like(values: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """The values with as many slots as were decided; 0 where there is none."""
    found = np.zeros(present.shape)
    slots = min(values.shape[1], present.shape[1])
    found[:, :slots] = values[:, :slots]
    return found


def _outcome(rows: pa.Table, present: npt.NDArray[np.bool_], metric: str) -> Floats:
    by_slot, slate = np.zeros(present.shape), np.zeros(len(present))
    column = _combined(rows["outcomes"])
    row = np.repeat(np.arange(len(column)), np.diff(column.offsets.to_numpy()))
    flat = column.flatten()
    wanted = pc.equal(flat.field("name"), metric).to_numpy(zero_copy_only=False)
    if rows.num_rows and not wanted.any():
        known = ", ".join(sorted(name for name in pc.unique(flat.field("name")).to_pylist() if name)) or "none"
        raise SourceError(f"metric: no row has an outcome {metric!r}; known: reward, {known}")
    slot = flat.field("slot").fill_null(-1).to_numpy()
    value = flat.field("value").to_numpy(zero_copy_only=False)
    of_slate, of_slot = wanted & (slot < 0), wanted & (slot >= 0)
    np.add.at(slate, row[of_slate], value[of_slate])
    np.add.at(by_slot, (row[of_slot], slot[of_slot]), value[of_slot])
    return _on_last(by_slot, present, slate)


def _on_last(by_slot: Floats, present: npt.NDArray[np.bool_], slate: Floats) -> Floats:
    """`slate` added to the last slot of each row, which carries the joint weight."""
    last = np.maximum(present.sum(axis=1) - 1, 0)
    by_slot[np.arange(len(by_slot)), last] += slate
    return by_slot


def padded(column: pa.ChunkedArray) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A column of lists as f64[n, longest], and where it has a value; nulls within a list have none."""
    lists = _combined(column)
    lengths = np.diff(lists.offsets.to_numpy())
    flat = lists.flatten()
    within = np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]
    values, given = np.zeros(within.shape), np.zeros(within.shape, bool)
    values[within] = flat.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    given[within] = flat.is_valid().to_numpy(zero_copy_only=False)
    return values, given


def _combined(column: pa.ChunkedArray) -> pa.ListArray:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _flags(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.fill_null(False).to_numpy(), bool)
