"""Columns of a user's table as numbers or factors, and the terms that a config may write of them. Pure.

A term is the name of a column, or `log(x)`, `sqrt(x)`, `x^2`, `C(x)` (numbers as a factor), or a product `a:b` of terms of numbers.
Words are a factor: codes of levels, never expanded into indicators on rows.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bandits.errors import ExperimentError
from protos import config

__all__ = ["MISSING_WORDS", "Column", "as_factor", "column", "number_words"]

#: Words that stand for a missing number where everything else in their column is a number, as statistics packages write it.
MISSING_WORDS = ("NA", "N/A", "na", "n/a", "null", "NULL", "None", "?", ".")
# More levels than this in one column are an id or free text.
_MOST_LEVELS = 10_000
_FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool]] = {"log": (np.log, 0.0, False), "sqrt": (np.sqrt, 0.0, True)}
_CALL = re.compile(r"(\w+)\((.+)\)")
_POWER = re.compile(r"(.+)\^([2-9])")


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


def column(table: pa.Table, term: str, *, role: str) -> Column:
    """The column of a term; `role` is the key of the config that named it.

    Raises ExperimentError for a name that the table lacks, a function outside its domain, infinity, or a type that is neither number nor
    word.
    """
    if term in table.column_names:
        return _plain(table, term, role=role)
    if ":" in term:
        return _product([_numbers(table, part.strip(), role=role) for part in term.split(":")], term)
    if power := _POWER.fullmatch(term):
        base = _numbers(table, power[1].strip(), role=role)
        return base._replace(name=term, values=base.values ** int(power[2]))
    if (call := _CALL.fullmatch(term)) and call[1] == "C":
        return as_factor(column(table, call[2].strip(), role=role), role=role)._replace(name=term)
    if call and call[1] in _FUNCTIONS:
        return _applied(_numbers(table, call[2].strip(), role=role), call[1], term, role=role)
    raise ExperimentError(f"{role}: the table has no column {term!r}; {config.nearest(term, table.column_names)}")


def as_factor(numbers: Column, *, role: str) -> Column:
    """A column with its distinct numbers as levels, ascending; a factor as it is. Raises ExperimentError beyond 10,000 levels."""
    if numbers.is_factor:
        return numbers
    levels, codes = np.unique(np.where(numbers.missing, np.nan, numbers.values), return_inverse=True)
    levels = levels[~np.isnan(levels)]
    return _factor(numbers.name, [_word(level) for level in levels], codes, numbers.missing, role=role)


def number_words(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Words as f64 where all of them are numbers or `MISSING_WORDS`, these missing; None where some are words."""
    stripped = pc.utf8_trim_whitespace(values.cast(pa.string()))
    kept = pc.if_else(pc.is_in(stripped, value_set=pa.array([*MISSING_WORDS, ""])), pa.scalar(None, pa.string()), stripped)
    try:
        return kept.cast(pa.float64()) if kept.null_count < len(kept) else None
    except pa.ArrowInvalid:
        return None


def _plain(table: pa.Table, name: str, *, role: str) -> Column:
    values = table[name]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        numbers = number_words(values)
        return _of_words(name, values, role=role) if numbers is None else _of_numbers(name, numbers, role=role)
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return _of_numbers(name, values.cast(pa.float64()), role=role)
    if pa.types.is_null(kind):
        raise ExperimentError(f"{role}: column {name!r} has no value in any row; drop it")
    raise ExperimentError(f"{role}: column {name!r} holds {kind}, which is no number and no word; convert it, or drop it")


def _of_numbers(name: str, values: pa.ChunkedArray, *, role: str) -> Column:
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = np.array(pc.fill_null(values, 0.0).to_numpy(), np.float64)
    numbers[missing] = 0.0
    _all_finite(numbers, name, role=role)
    return Column(name, numbers, None, missing)


def _of_words(name: str, values: pa.ChunkedArray, *, role: str) -> Column:
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    missing = encoded.is_null().to_numpy(zero_copy_only=False)
    words = np.array(encoded.dictionary.to_pylist(), object)
    order = np.argsort(words.astype(str), kind="stable")
    place = np.empty(len(words), np.int32)
    place[order] = np.arange(len(words))
    codes = pc.fill_null(encoded.indices, 0).to_numpy()
    return _factor(name, list(words[order]), place[codes], missing, role=role)


def _factor(name: str, levels: Sequence[str], codes: np.ndarray, missing: np.ndarray, *, role: str) -> Column:
    if len(levels) > _MOST_LEVELS:
        raise ExperimentError(f"{role}: column {name!r} has {len(levels)} different values, more than {_MOST_LEVELS}; drop it")
    return Column(name, np.where(missing, 0, codes).astype(np.int32), tuple(levels), missing)


def _numbers(table: pa.Table, term: str, *, role: str) -> Column:
    found = column(table, term, role=role)
    if found.is_factor:
        raise ExperimentError(f"{role}: column {term!r} holds words, of which no number can be made; name a column of numbers")
    return found


def _applied(base: Column, function: str, term: str, *, role: str) -> Column:
    apply, least, closed = _FUNCTIONS[function]
    outside = ~base.missing & ((base.values < least) if closed else (base.values <= least))
    if outside.any():
        row = int(outside.argmax())
        raise ExperimentError(f"{role}: {term} of {base.values[row]:g} in row {row} (0 = first) is no number; shift or drop the column")
    return base._replace(name=term, values=np.where(base.missing, 0.0, apply(np.where(base.missing, 1.0, base.values))))


def _product(parts: Sequence[Column], term: str) -> Column:
    missing = np.any([part.missing for part in parts], axis=0)
    return Column(term, np.prod([part.values for part in parts], axis=0), None, missing)


def _all_finite(numbers: np.ndarray, name: str, *, role: str) -> None:
    if not np.all(np.isfinite(numbers)):
        row = int(np.argmin(np.isfinite(numbers)))
        raise ExperimentError(f"{role}: column {name!r} holds {numbers[row]} in row {row} (0 = first); give finite numbers")


def _word(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}" if float(f"{number:g}") == number else repr(float(number))
