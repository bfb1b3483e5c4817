"""Columns of a user's table as they stand: numbers, words, truth values and dates, and what is missing in them. Pure.

What a column is follows from all of its values: numbers where all are numbers, truth values (1 and 0) where all are true or false, days
since 1970-01-01 where they are dates, and else words.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.errors import ExperimentError
from protos import config

__all__ = ["Column", "coded", "factor", "plain"]

#: Words that stand for a missing value in any column, as statistics packages write it; "None" and "?" may be levels of a factor.
_MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
#: More of them, where everything else in the column is a number.
_MISSING_NUMBERS = (*_MISSING, "na", "None", "?", ".")
# More levels than this in one column are free text.
_MOST_LEVELS = 1_000_000
_A_DAY_US = 86_400_000_000


class Column(NamedTuple):
    """`values`: f64[n] numbers, or i32[n] codes of `levels` where it is a factor; `missing` bool[n] (their values mean nothing)."""

    name: str
    values: np.ndarray
    levels: tuple[str, ...] | None
    missing: np.ndarray

    @property
    def is_factor(self) -> bool:
        """true = words, or numbers taken as words."""
        return self.levels is not None


def plain(table: pa.Table, name: str, *, role: str) -> Column:
    """A column of the table; `role` is the key of the config that named it.

    Raises ExperimentError for infinity, for more than a million different words, or a type that is neither number, word nor date.
    """
    values = _unpacked(table[name])
    kind = values.type
    if pa.types.is_null(kind):
        raise ExperimentError(f"{role}: column {name!r} has no value in any row; drop it")
    if _is_word(kind):
        numbers = _number_words(values)
        return _of_words(name, values, role=role) if numbers is None else _of_numbers(name, numbers, role=role)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ExperimentError(f"{role}: column {name!r} is not text in UTF-8; save the file in that encoding, or drop the column")
    for holds, number in _NUMBERS:
        if holds(kind):
            return _of_numbers(name, number(values), role=role)
    raise ExperimentError(f"{role}: column {name!r} holds {kind}, which is no number and no word; convert it, or drop it")


def coded(table: pa.Table, name: str, *, role: str) -> Column:
    """A column of any type as numbers from 0 that tell its values apart, i64[n], however many there are.

    Raises ExperimentError for a name that the table lacks.
    """
    if name not in table.column_names:
        raise ExperimentError(f"{role}: the table has no column {name!r}; {config.nearest(name, table.column_names)}")
    values = _unpacked(table[name])
    if _is_word(values.type):
        values = _none_for(values, _MISSING)
    elif pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    encoded = values.combine_chunks().dictionary_encode()
    found = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Column(name, found, None, encoded.indices.is_null().to_numpy(zero_copy_only=False))


def factor(name: str, levels: Sequence[str], codes: np.ndarray, missing: np.ndarray, *, role: str) -> Column:
    """A factor of `codes` i[n]. Raises ExperimentError beyond a million levels."""
    if len(levels) > _MOST_LEVELS:
        raise ExperimentError(f"{role}: column {name!r} has {len(levels)} different values, more than {_MOST_LEVELS}; drop it")
    return Column(name, np.where(missing, 0, codes).astype(np.int32), tuple(levels), missing)


def _unpacked(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    # Views and large words, as other libraries write them to Parquet.
    return values.cast(pa.large_string()) if _is_word(values.type) else values


def _is_word(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _none_for(values: pa.ChunkedArray, words: Sequence[str]) -> pa.ChunkedArray:
    found = pc.is_in(pc.utf8_trim_whitespace(values), value_set=pa.array(words, values.type))
    return pc.if_else(found, pa.scalar(None, values.type), values)


def _number_words(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Words as f64 where all of them are numbers or truth values, or mean that there is none; None where some are words."""
    kept = pc.utf8_trim_whitespace(_none_for(values, _MISSING_NUMBERS))
    if kept.null_count == len(kept):
        return None
    try:
        return kept.cast(pa.float64())
    except pa.ArrowInvalid:
        return _truth_words(_none_for(values, _MISSING))


def _truth_words(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    truths = pc.all(pc.is_in(lower, value_set=pa.array(["true", "false", None], lower.type))).as_py()
    return pc.equal(lower, "true").cast(pa.float64()) if truths else None


def _of_numbers(name: str, values: pa.ChunkedArray, *, role: str) -> Column:
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = np.array(pc.fill_null(values, 0.0).to_numpy(), np.float64)
    numbers[missing] = 0.0
    if not np.all(np.isfinite(numbers)):
        row = int(np.argmin(np.isfinite(numbers)))
        raise ExperimentError(f"{role}: column {name!r} holds {numbers[row]} in row {row} (0 = first); give finite numbers")
    return Column(name, numbers, None, missing)


def _of_words(name: str, values: pa.ChunkedArray, *, role: str) -> Column:
    encoded = _none_for(values, _MISSING).combine_chunks().dictionary_encode()
    missing = encoded.indices.is_null().to_numpy(zero_copy_only=False)
    words = np.array(encoded.dictionary.to_pylist(), object)
    if not len(words):
        raise ExperimentError(f"{role}: column {name!r} has no value in any row; drop it")
    order = np.argsort(words.astype(str), kind="stable")
    place = np.empty(len(words), np.int32)
    place[order] = np.arange(len(words))
    return factor(name, list(words[order]), place[pc.fill_null(encoded.indices, 0).to_numpy()], missing, role=role)


def _days(values: pa.ChunkedArray) -> pa.ChunkedArray:
    # One step at a time: a date has no hours, and a stamp of nanoseconds may have more digits than microseconds hold.
    micros = values.cast(pa.timestamp("us", tz=getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
    return pc.divide(micros.cast(pa.float64(), safe=False), float(_A_DAY_US))


def _float(values: pa.ChunkedArray) -> pa.ChunkedArray:
    # Not safe: an id of 64 bits loses digits as a number, which is better than no answer.
    return values.cast(pa.float64(), safe=False)


_NUMBERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.ChunkedArray], pa.ChunkedArray]], ...] = (
    (pa.types.is_integer, _float),
    (pa.types.is_floating, _float),
    (pa.types.is_boolean, _float),
    (pa.types.is_decimal, _float),
    (pa.types.is_timestamp, _days),
    (pa.types.is_date, _days),
)
