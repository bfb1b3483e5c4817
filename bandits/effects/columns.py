"""Columns of a user's table as numbers or factors, and the terms that a config may write of them. Pure.

A term is the name of a column, or `log(x)`, `sqrt(x)`, `x^2`, `C(x)` (numbers as a factor), or a product `a:b` of terms of numbers.
Words are a factor: codes of levels, never expanded into indicators on rows.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from bandits.effects.plain import Column, factor, plain
from bandits.errors import ExperimentError
from protos import config

__all__ = ["as_factor", "bases", "column"]

_FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool]] = {"log": (np.log, 0.0, False), "sqrt": (np.sqrt, 0.0, True)}
_CALL = re.compile(r"(\w+)\((.+)\)")
_POWER = re.compile(r"(.+)\^([2-9])")


def column(table: pa.Table, term: str, *, role: str) -> Column:
    """The column of a term; `role` is the key of the config that named it.

    Raises ExperimentError for a name that the table lacks, a function outside its domain, infinity, or a type that is neither number nor
    word.
    """
    if term in table.column_names:
        return plain(table, term, role=role)
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


def bases(term: str, names: Sequence[str]) -> frozenset[str]:
    """The columns that a term is made of; `names` are those of the table."""
    if term in names:
        return frozenset([term])
    if ":" in term:
        return frozenset().union(*(bases(part.strip(), names) for part in term.split(":")))
    if power := _POWER.fullmatch(term):
        return bases(power[1].strip(), names)
    call = _CALL.fullmatch(term)
    return bases(call[2].strip(), names) if call else frozenset([term])


def as_factor(numbers: Column, *, role: str) -> Column:
    """A column with its distinct numbers as levels, ascending; a factor as it is. Raises ExperimentError beyond a million levels."""
    if numbers.is_factor:
        return numbers
    levels, codes = np.unique(np.where(numbers.missing, np.nan, numbers.values), return_inverse=True)
    levels = levels[~np.isnan(levels)]
    return factor(numbers.name, [_word(level) for level in levels], codes, numbers.missing, role=role)


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


def _word(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}" if float(f"{number:g}") == number else repr(float(number))
