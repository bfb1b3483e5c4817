"""Columns of any table as numbers: numeric ones standardised, all others one-hot. Pure.

Standardisation is over the whole table, as bandit benchmarks have it: it looks ahead, at contexts but never at labels.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.errors import SimulationError
from protos import config

__all__ = ["classes_of", "column_of", "encode_contexts", "numbers_of"]

# More words than this in one column are an id or free text, and would make a context that nobody wants.
_MOST_LEVELS = 1_000


def column_of(table: pa.Table, name: str, *, role: str) -> pa.ChunkedArray:
    """A column without missing values; `role` is the argument that named it. Raises SimulationError naming the nearest column."""
    if name not in table.column_names:
        raise SimulationError(f"{role}: the table has no column {name!r}; {config.nearest(name, table.column_names)}")
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    missing = pc.is_null(column, nan_is_null=True)
    if pc.any(missing).as_py():
        row = missing.to_numpy(zero_copy_only=False).argmax()
        raise SimulationError(f"{role}: column {name!r} has no value in row {row} (0 = first); fill it, or drop the row")
    return column


def numbers_of(table: pa.Table, name: str, *, role: str) -> np.ndarray:
    """A numeric column as finite f64[n]. Raises SimulationError for words, missing values and infinity."""
    column = column_of(table, name, role=role)
    if not _is_numeric(column.type):
        raise SimulationError(f"{role}: column {name!r} holds {column.type}; name a column of numbers")
    numbers = column.cast(pa.float64()).to_numpy()
    if not np.all(np.isfinite(numbers)):
        row = int(np.argmin(np.isfinite(numbers)))
        raise SimulationError(f"{role}: column {name!r} holds {numbers[row]} in row {row} (0 = first); give finite numbers")
    return numbers


def classes_of(table: pa.Table, name: str, *, role: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes of a column, sorted (numbers by value), and the index of each row's, i32[n].

    Raises SimulationError if the column is missing, has missing values, or holds a single class.
    """
    column = column_of(table, name, role=role)
    if pa.types.is_nested(column.type):
        raise SimulationError(f"{role}: column {name!r} holds {column.type}; name a column of words or numbers")
    levels, codes = np.unique(column.to_numpy(), return_inverse=True)
    if len(levels) < 2:
        raise SimulationError(f"{role}: column {name!r} has one class only, {levels[0]!r}; a choice needs at least two")
    return tuple(str(level) for level in levels), codes.astype(np.int32)


def encode_contexts(table: pa.Table, *, leave_out: frozenset[str]) -> np.ndarray:
    """All columns but `leave_out` as contexts, f64[n, d]: a numeric column z-scored, any other one-hot, its last level left out.

    A constant column gives zeros, or nothing. Raises SimulationError for missing values, infinity, or a column of too many words.
    """
    parts = [_encoded(table, name) for name in table.column_names if name not in leave_out]
    return np.concatenate([np.zeros((table.num_rows, 0)), *parts], axis=1)


def _encoded(table: pa.Table, name: str) -> np.ndarray:
    column = column_of(table, name, role="data")
    if _is_numeric(column.type):
        return _standardised(numbers_of(table, name, role="data"))[:, None]
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise SimulationError(f"data: column {name!r} holds {column.type}, which is no number and no word; drop it")
    levels, codes = np.unique(column.cast(pa.string()).to_numpy(), return_inverse=True)
    if len(levels) > _MOST_LEVELS:
        raise SimulationError(f"data: column {name!r} has {len(levels)} different words, more than {_MOST_LEVELS}; drop it")
    return (codes[:, None] == np.arange(len(levels) - 1)).astype(np.float64)


def _standardised(numbers: np.ndarray) -> np.ndarray:
    # Squares of numbers above 1e154 would be infinite.
    numbers = numbers / max(float(np.abs(numbers).max()), np.finfo(np.float64).tiny)
    spread = numbers.std()
    # A constant column has a spread of rounding errors.
    return (numbers - numbers.mean()) / spread if spread > 1e-12 else np.zeros_like(numbers)


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind))
