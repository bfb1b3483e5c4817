"""Reads the observations table. Never by table version or by added files: compaction and deletion change those."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from protos.delta_tables import dataset_of
from protos.errors import ObservationsError
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["Cursor", "latest_revisions", "observed_watermark_us", "revisions_count", "revisions_of", "revisions_since"]

# Partition -> number of the last commit that has been seen.
Cursor = Mapping[int, int]


def latest_revisions(
    table: Path | str,
    *,
    task: str,
    decided_after_us: int | None = None,
    decided_until_us: int | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """The latest revision of each decision of a task, oldest decision first.

    `decided_after_us` < decision_time_us <= `decided_until_us`, microseconds since the epoch. Raises ObservationsError if the table
    is absent or a column unknown.
    """
    wanted = list(columns) if columns is not None else OBSERVATION_SCHEMA.names
    for name in wanted:
        if name not in OBSERVATION_SCHEMA.names:
            raise ObservationsError(f"column {name!r} is not one of an observation; known: {', '.join(OBSERVATION_SCHEMA.names)}")
    keys = ["decision_id", "revision", "decision_time_us"]
    condition = _of_task(task)
    if decided_after_us is not None:
        condition &= pc.field("decision_time_us") > decided_after_us
    if decided_until_us is not None:
        condition &= pc.field("decision_time_us") <= decided_until_us
    rows = _dataset(table).to_table(columns=list(dict.fromkeys([*wanted, *keys])), filter=condition)
    order = pl.DataFrame({"row": range(rows.num_rows), **{key: pl.from_arrow(rows[key].combine_chunks()) for key in keys}})
    newest = order.sort(["decision_id", "revision"]).unique("decision_id", keep="last")
    kept = newest.sort(["decision_time_us", "decision_id"])["row"].to_arrow()
    return rows.take(kept).select(wanted)


def revisions_since(table: Path | str, *, task: str, cursor: Cursor) -> tuple[pa.Table, Cursor]:
    """Every revision committed after `cursor`, in commit order, and the cursor that includes them.

    A reader that stores the cursor with what it made of the rows sees each revision once.
    """
    dataset = _dataset(table)
    unseen = pc.field("commit_seq") > 0
    for partition, seen in cursor.items():
        unseen &= (pc.field("partition") != partition) | (pc.field("commit_seq") > seen)
    rows = dataset.to_table(filter=unseen).sort_by([("partition", "ascending"), ("commit_seq", "ascending")])
    newest = rows.group_by("partition").aggregate([("commit_seq", "max")]).to_pylist()
    advanced = {**cursor, **{row["partition"]: row["commit_seq_max"] for row in newest}}
    return rows.filter(_of_task(task)), advanced


def observed_watermark_us(table: Path | str) -> int | None:
    """The watermark up to which every partition has derived its rows; None where the table has none yet."""
    rows = _dataset(table).to_table(columns=["partition", "watermark_us"])
    newest = rows.group_by("partition").aggregate([("watermark_us", "max")])["watermark_us_max"]
    return pc.min(newest).as_py()


def _of_task(task: str) -> pc.Expression:
    # Delta rewrites a file (compaction, deletion) with view types, which Arrow's pruning by statistics can't compare: the cast can.
    return pc.field("task").cast(pa.string()) == task


def _dataset(table: Path | str) -> ds.Dataset:
    dataset = dataset_of(_open(table))
    if absent := sorted(set(OBSERVATION_SCHEMA.names) - set(dataset.schema.names)):
        raise ObservationsError(
            f"{table}: a table without column {absent[0]!r}; give the path of the observations that `attribution run` writes"
        )
    return dataset


def _open(table: Path | str) -> deltalake.DeltaTable:
    try:
        return deltalake.DeltaTable(str(table))
    except (deltalake.exceptions.DeltaError, OSError) as error:
        raise ObservationsError(
            f"{table}: no observations table ({error}); start `attribution run`, or give the path of its output"
        ) from error


def revisions_of(table: Path | str, *, task: str, decision_ids: Sequence[bytes]) -> pa.Table:
    """Every revision of the given decisions: what a learner takes back when one of them is revised."""
    wanted = pa.array(sorted(set(decision_ids)), pa.binary())
    return _dataset(table).to_table(filter=(_of_task(task)) & pc.field("decision_id").cast(pa.binary()).isin(wanted))


def revisions_count(table: Path | str) -> int:
    """Rows of the table, by its own statistics: cheap enough for a display."""
    return int(_open(table).count())
