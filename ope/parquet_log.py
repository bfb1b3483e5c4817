"""Logged data in columns (Parquet, CSV, or a Delta table), by a mapping of columns, in batches."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.lib

from ope.errors import SourceError
from ope.observed import padded
from ope.rows import Batch, Floats, Keys, prefix_weights, unit_keys
from protos.config import nearest
from protos.delta_tables import delta_dataset
from protos.errors import ObservationsError

__all__ = [
    "KINDS",
    "ColumnMapping",
    "batches_of",
    "checked_columns",
    "checked_propensities",
    "count_rows",
    "is_list",
    "keys_of",
    "numbers_of",
    "open_dataset",
    "read_batches",
]

KINDS = ("parquet", "csv", "delta")
_BATCH_ROWS = 1 << 17


@dataclasses.dataclass(frozen=True)
class ColumnMapping:
    """Which column holds what; a column of numbers is a log of single actions, a column of lists one of slates, one entry a slot."""

    # Reward, in the metric's unit; finite.
    reward: str
    # Importance weight, >= 0 (of slates: the prefix weights); or the two propensities, conditional on the earlier slots, in (0, 1].
    weight: str | None = None
    propensity: str | None = None
    target_propensity: str | None = None
    # Reward model at the logged action, and averaged over the target's actions.
    q_logged: str | None = None
    v_target: str | None = None
    # Randomised unit, for clustered errors; without it every row is its own.
    unit: str | None = None
    # Of slates: the weight of each item in its slot whatever stands in the others; and one weight for the whole slate, a number a row.
    marginal_weight: str | None = None
    slate_weight: str | None = None
    # 1 (or true) where it was seen, 0 where not, for means per impression.
    seen: str | None = None

    def named(self) -> dict[str, str]:
        """Flag -> column, of those that are given."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: column for name, column in given.items() if column is not None}


def read_batches(path: Path, mapping: ColumnMapping, *, kind: str = "parquet") -> Iterator[Batch]:
    """The rows of a file, a folder of files, or a table of one of KINDS. Raises SourceError for what does not fit."""
    yield from batches_of(open_dataset(path, kind), mapping)


def batches_of(dataset: ds.Dataset, mapping: ColumnMapping) -> Iterator[Batch]:
    """The rows of an Arrow dataset. Raises SourceError for a column or value that does not fit."""
    _check(mapping, dataset.schema)
    slates = is_list(dataset.schema.field(mapping.reward))
    for record in dataset.to_batches(columns=list(dict.fromkeys(mapping.named().values())), batch_size=_BATCH_ROWS):
        if record.num_rows:
            yield _batch(pa.Table.from_batches([record]), mapping, slates=slates)


def count_rows(path: Path, *, kind: str = "parquet") -> int:
    """Rows of the file or folder, for a progress bar. Raises SourceError if it cannot be read."""
    return int(open_dataset(path, kind).count_rows())


def open_dataset(path: Path, kind: str) -> ds.Dataset:
    """A file, a folder of files, or a table, of one of KINDS. Raises SourceError if it cannot be read."""
    try:
        return delta_dataset(path) if kind == "delta" else ds.dataset(path, format=kind)
    except (OSError, pyarrow.lib.ArrowException, ObservationsError) as error:
        name = {"parquet": "Parquet", "csv": "CSV", "delta": "a Delta table"}[kind]
        reason = str(error).splitlines()[0]
        raise SourceError(f"{path}: cannot be read as {name} ({reason}); give a file, a folder of files or a table of that kind") from error


def checked_columns(named: Iterable[tuple[str, str]], schema: pa.Schema) -> None:
    """Raises SourceError for the first of (flag, column) whose column is not there."""
    for name, column in named:
        if column not in schema.names:
            raise SourceError(f"--{name.replace('_', '-')}: no column {column!r}; {nearest(column, schema.names)}")


def _check(mapping: ColumnMapping, schema: pa.Schema) -> None:
    checked_columns(mapping.named().items(), schema)
    if (mapping.propensity is None) != (mapping.target_propensity is None):
        raise SourceError("--propensity and --target-propensity: one is missing; a weight is their ratio, so give both (or --weight)")
    if mapping.weight is not None and mapping.propensity is not None:
        raise SourceError("--weight: given beside --propensity; a row has one weight, so give either")


def _batch(rows: pa.Table, mapping: ColumnMapping, *, slates: bool) -> Batch:
    def numbers(column: str | None) -> Floats | None:
        return None if column is None else numbers_of(rows, column, slates=slates)

    reward = numbers(mapping.reward)
    assert reward is not None
    weight = numbers(mapping.weight)
    if mapping.propensity is not None:
        weight = _weights(rows, mapping, slates=slates)
    unit = None if mapping.unit is None else keys_of(rows[mapping.unit])
    return Batch(
        reward,
        weight,
        numbers(mapping.q_logged),
        numbers(mapping.v_target),
        unit,
        marginal_weight=numbers(mapping.marginal_weight),
        slate_weight=None if mapping.slate_weight is None else numbers_of(rows, mapping.slate_weight, slates=False),
        seen=numbers(mapping.seen),
    )


def keys_of(column: pa.ChunkedArray) -> Keys:
    """Keys of a column of units, u64[n]: whole numbers as they are; of other ids each distinct one is hashed once."""
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column.to_numpy()).astype(np.uint64)
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    coded = coded if isinstance(coded, pa.DictionaryArray) else coded.chunk(0)
    return unit_keys([str(unit) for unit in coded.dictionary.to_pylist()])[coded.indices.to_numpy()]


def _weights(rows: pa.Table, mapping: ColumnMapping, *, slates: bool) -> Floats:
    assert mapping.propensity is not None and mapping.target_propensity is not None
    present = padded(rows[mapping.propensity])[1] if slates else np.ones((rows.num_rows, 1), bool)
    logged, target = (
        checked_propensities(rows, column, slates=slates, present=present) for column in (mapping.propensity, mapping.target_propensity)
    )
    return prefix_weights(target=target, logged=logged, present=present)


def checked_propensities(rows: pa.Table, column: str, *, slates: bool, present: npt.NDArray[np.bool_]) -> Floats:
    """A column of propensities as f64[n, L], for slots bool[n, L] that are there. Raises SourceError for one outside [0, 1]."""
    propensity = numbers_of(rows, column, slates=slates)
    if propensity.shape != present.shape or (slates and not np.array_equal(padded(rows[column])[1], present)):
        raise SourceError(f"column {column!r}: its lists are not as long as the slates; give one propensity a slot: mend the rows")
    # The negation finds NaN too, which is neither above nor below anything.
    if (wrong := np.argwhere(present & ~((propensity >= 0) & (propensity <= 1)))).size:
        row, slot = wrong[0]
        raise SourceError(f"column {column!r}: {propensity[row, slot]} in row {row} is no propensity; they lie in [0, 1]: mend the row")
    return propensity


def is_list(field: pa.Field) -> bool:
    """Does the column hold lists?"""
    return bool(pa.types.is_list(field.type) or pa.types.is_large_list(field.type))


def numbers_of(rows: pa.Table, column: str, *, slates: bool) -> Floats:
    """A column as f64[n, L]; a null is NaN, which estimators refuse by name."""
    if slates != is_list(rows.schema.field(column)):
        kind = rows.schema.field(column).type
        raise SourceError(f"column {column!r}: is {kind}; slates need lists in every column but the slate weight, single actions none")
    try:
        if slates:
            return padded(rows[column])[0]
        return np.asarray(rows[column].cast(pa.float64()).to_numpy(), np.float64)[:, None]
    except pyarrow.lib.ArrowException as error:
        raise SourceError(f"column {column!r}: holds no numbers ({error}); map another column") from error
