"""Which rows are alike in every column. Pure.

Columns of small whole numbers, which indicators and codes of factors are, are put together first: so many to a number of 64 bits as fit,
which tells them apart exactly. Rows are then told apart by one number each, and compared.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

__all__ = ["Groups", "grouped"]

# Rows that are looked at together, so that what is made of them stays in the cache.
_BLOCK = 1 << 16
# Bytes of a number that are used: 48 bits are a whole number as float64, too.
_BYTES = 6
# Odd constants of 64 bits with about half their bits set (Steele, Lea, Flood 2014, SplitMix).
_MULTIPLIER, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


class Groups(NamedTuple):
    """`first` i64[C]: the first row of each group, ascending; `code` i64[n]: the group of each row."""

    first: np.ndarray
    code: np.ndarray


def grouped(columns: Sequence[np.ndarray], *, rows: int) -> Groups:
    """Groups of rows that are equal in every column, in the order of their first rows.

    Rows are told apart by one number each, and then compared: by a weighted sum, which costs least, and where that takes two different rows
    for equal ones (columns of very different sizes, infinite values) by hashes of 64 bits (one chance in 10^7 for a million rows).
    """
    columns = _packed(columns)
    if not columns:
        return Groups(np.zeros(1, np.int64), np.zeros(rows, np.int64))
    if len(columns) == 1:
        (values,) = columns
        return _groups(_bits(values) if values.dtype == np.float64 else values)
    for salt in range(9):
        groups = _groups(_hashes(columns, salt) if salt else _weighed(columns))
        if len(groups.first) == rows or all(_constant(values, groups) for values in columns):
            return groups
    raise AssertionError("eight hashes of 64 bits in a row took different rows for equal ones")


def _groups(numbers: np.ndarray) -> Groups:
    """Groups of equal whole numbers [n]."""
    encoded = pa.array(numbers).dictionary_encode()
    code = encoded.indices.to_numpy().astype(np.int64)
    return Groups(_firsts(code, len(encoded.dictionary)), code)


def _firsts(code: np.ndarray, size: int) -> np.ndarray:
    """The first row of each of `size` codes, which are numbered as they appear."""
    first, seen = np.empty(size, np.int64), 0
    for start in range(0, len(code), _BLOCK):
        if seen == size:
            break
        part = code[start : start + _BLOCK]
        fresh = np.flatnonzero(part >= seen)[::-1]
        first[part[fresh]] = start + fresh
        seen = max(seen, int(part.max()) + 1)
    return first


def _packed(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Fewer columns that tell the same rows apart: those of whole numbers from -128 to 127 together, and those that are constant not."""
    others, packed, free = list[np.ndarray](), list[np.ndarray](), 0
    for values in columns:
        small = _small(values)
        if small is None:
            others.append(values)
            continue
        least = int(small.min(initial=127))
        width = max(int(small.max(initial=-128)) - least, 0).bit_length()
        # Of a byte without sign, so that the difference wraps into 0..255.
        digits = small.view(np.uint8) - np.uint8(least & 0xFF)
        if width > free:
            packed.append(digits)
            free = 8 - width
        elif width:
            packed[-1] <<= width
            packed[-1] |= digits
            free -= width
    return [*_numbers(packed), *others]


def _small(values: np.ndarray) -> np.ndarray | None:
    """A column of whole numbers from -128 to 127 as i8[n]; None for any other."""
    found = np.empty(len(values), np.int8)
    with np.errstate(invalid="ignore"):
        for start in range(0, len(values), _BLOCK):
            part = values[start : start + _BLOCK]
            found[start : start + _BLOCK] = part
            if not np.array_equal(found[start : start + _BLOCK], part):
                return None
    return found


def _numbers(packed: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Bytes u8[n] side by side, six to a number of 64 bits; where four are left, to one of 32."""
    for at in range(0, len(packed), _BYTES):
        chosen = packed[at : at + _BYTES]
        size = 4 if len(chosen) <= 4 else 8
        table = np.zeros((len(chosen[0]), size), np.uint8)
        for place, values in enumerate(chosen):
            table[:, place] = values
        yield table.view(f"<u{size}").ravel()


def _constant(values: np.ndarray, groups: Groups) -> bool:
    """Is a column the same in all rows of each group?"""
    of_group, code, buffer = values[groups.first], groups.code, np.empty(_BLOCK, values.dtype)
    for start in range(0, len(code), _BLOCK):
        part = code[start : start + _BLOCK]
        # Codes are never out of range; "clip" is what keeps numpy from a copy of its own.
        said = np.take(of_group, part, out=buffer[: len(part)], mode="clip")
        if not np.array_equal(said, values[start : start + _BLOCK]):
            return False
    return True


def _weighed(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The bits of sum_j r_j x_j of each row. Rows that are equal have the same: every step rounds alike in every row, and zeros of either
    sign add nothing to a sum that begins at one."""
    rows, factors = len(columns[0]), np.random.default_rng(0).uniform(0.5, 1.5, len(columns))
    found, buffer = np.ones(rows), np.empty(_BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows, _BLOCK):
            total = found[start : start + _BLOCK]
            for values, factor in zip(columns, factors, strict=True):
                total += np.multiply(values[start : start + _BLOCK], factor, out=buffer[: len(total)])
    return found.view(np.uint64)


def _hashes(columns: Sequence[np.ndarray], salt: int) -> np.ndarray:
    rows = len(columns[0])
    found = np.empty(rows, np.uint64)
    for start in range(0, rows, _BLOCK):
        hashed = np.full(min(_BLOCK, rows - start), salt, np.uint64) * _MULTIPLIER
        for values in columns:
            hashed ^= _bits(values[start : start + _BLOCK])
            hashed *= _MULTIPLIER
            hashed ^= hashed >> np.uint64(31)
            hashed += _STEP
        found[start : start + _BLOCK] = hashed
    return found


def _bits(values: np.ndarray) -> np.ndarray:
    # Adding zero makes -0.0 and 0.0, which are equal, the same bits.
    return (values + 0.0).view(np.uint64) if values.dtype == np.float64 else values.astype(np.uint64)
