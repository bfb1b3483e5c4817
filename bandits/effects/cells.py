"""Lossless compression: rows that are alike in all that a regression conditions on become one cell with sums (Wong et al. 2021, YOCO).

    cell c:   W_c = sum w_i,   m_c = sum w_i y_i / W_c,   S_c = sum w_i (y_i - m_c)^2

From these every sum over rows of a regression on columns that are constant in a cell follows, the squared residuals too:
sum w_i (y_i - f)^2 = S_c + W_c (m_c - f)^2. Sums are kept about their mean, so that nothing cancels. Errors that are robust need the same
three with the weights squared, errors that are clustered need W and W m by (cell, cluster). Pure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

__all__ = ["Cells", "Clustered", "Groups", "Sums", "compress", "grouped"]

# Rows that are hashed at once, so that the intermediate arrays stay in the cache.
_BLOCK = 1 << 15
# Places of (cell, cluster) for each row beyond which rows are not brought together by them.
_PARTS_A_ROW = 2
# Odd constants of 64 bits with about half their bits set (Steele, Lea, Flood 2014, SplitMix).
_MULTIPLIER, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x9E3779B97F4A7C15)


class Groups(NamedTuple):
    """`first` i64[C]: a row of each group; `code` i64[n]: the group of each row."""

    first: np.ndarray
    code: np.ndarray


class Sums(NamedTuple):
    """Of one outcome, each f64[C]: `weight` sum of w, `mean` of y by w, `spread` sum of w (y - mean)^2."""

    weight: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, code: np.ndarray, size: int, y: np.ndarray, weight: np.ndarray | None) -> "Sums":
        """Sums by group; `weight` None = one a row. A group of weight zero has mean zero."""
        total = np.bincount(code, weight, size).astype(np.float64)
        mean = np.bincount(code, y if weight is None else weight * y, size) / np.where(total > 0.0, total, 1.0)
        squared = (y - mean[code]) ** 2
        return cls(total, mean, np.bincount(code, squared if weight is None else weight * squared, size))

    def at(self, chosen: np.ndarray) -> "Sums":
        """The sums of some cells: a mask, or their places."""
        return Sums(*(values[chosen] for values in (self.weight, self.mean, self.spread)))


class Clustered(NamedTuple):
    """Parts of cells by cluster: `cell`, `cluster` i64[M] >= 0; `sums` by outcome, with the plain weights."""

    cell: np.ndarray
    cluster: np.ndarray
    sums: Mapping[str, Sums]


class Cells(NamedTuple):
    """Compressed rows.

    `columns`: by name, values of each cell [C] (numbers or codes); `rows` f64[C], rows of positive weight; `sums` by outcome, with
    weights w; `squared` the same with the weights that enter robust errors: w^2, or w where they are frequencies; `clustered` where
    clusters were asked for.
    """

    columns: Mapping[str, np.ndarray]
    rows: np.ndarray
    sums: Mapping[str, Sums]
    squared: Mapping[str, Sums]
    clustered: Clustered | None

    @property
    def size(self) -> int:
        """C: how many cells there are."""
        return len(self.rows)

    def where(self, chosen: np.ndarray) -> "Cells":
        """The cells that a mask bool[C] chooses, with their parts by cluster."""
        place = np.cumsum(chosen) - 1
        parts = self.clustered
        if parts is not None:
            kept = chosen[parts.cell]
            sums = {name: each.at(kept) for name, each in parts.sums.items()}
            parts = Clustered(place[parts.cell[kept]], parts.cluster[kept], sums)
        return Cells(
            columns={name: values[chosen] for name, values in self.columns.items()},
            rows=self.rows[chosen],
            sums={name: each.at(chosen) for name, each in self.sums.items()},
            squared={name: each.at(chosen) for name, each in self.squared.items()},
            clustered=parts,
        )


def compress(
    columns: Mapping[str, np.ndarray],
    outcomes: Mapping[str, np.ndarray],
    *,
    weight: np.ndarray | None = None,
    frequency: bool = False,
    cluster: np.ndarray | None = None,
) -> Cells:
    """Cells of rows that are alike in all `columns` ([n] each); sums of `outcomes`, f64[n] each.

    `weight` f64[n] >= 0, None = one a row; `frequency` = a weight counts rows. `cluster` i64[n]: which cluster a row is of.
    """
    groups = grouped(list(columns.values()), rows=len(next(iter(outcomes.values()))))
    size = len(groups.first)
    sums = {name: Sums.of(groups.code, size, y, weight) for name, y in outcomes.items()}
    squared = sums
    if weight is not None and not frequency:
        squared = {name: Sums.of(groups.code, size, y, weight**2) for name, y in outcomes.items()}
    return Cells(
        columns={name: values[groups.first] for name, values in columns.items()},
        rows=_rows(groups.code, size, weight, frequency=frequency),
        sums=sums,
        squared=squared,
        clustered=None if cluster is None else _clustered(groups, cluster, outcomes, weight),
    )


def grouped(columns: Sequence[np.ndarray], *, rows: int) -> Groups:
    """Groups of rows that are equal in every column, in the order of their first rows.

    Rows are told apart by one number each, and then compared: by a weighted sum, which costs least, and where that takes two different rows
    for equal ones (columns of very different sizes, infinite values) by hashes of 64 bits (one chance in 10^7 for a million rows).
    """
    if not columns:
        return Groups(np.zeros(1, np.int64), np.zeros(rows, np.int64))
    for salt in range(9):
        encoded = pa.array(_hashes(columns, salt) if salt else _weighed(columns)).dictionary_encode()
        code = encoded.indices.to_numpy().astype(np.int64)
        first = np.empty(len(encoded.dictionary), np.int64)
        first[code[::-1]] = np.arange(rows - 1, -1, -1)
        if len(first) == rows or all(_constant(values, first, code) for values in columns):
            return Groups(first, code)
    raise AssertionError("eight hashes of 64 bits in a row took different rows for equal ones")


def _constant(values: np.ndarray, first: np.ndarray, code: np.ndarray) -> bool:
    """Is a column the same in all rows of each group?"""
    of_group, buffer = values[first], np.empty(_BLOCK, values.dtype)
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


def _rows(code: np.ndarray, size: int, weight: np.ndarray | None, *, frequency: bool) -> np.ndarray:
    counted = None if weight is None else weight if frequency else (weight > 0.0).astype(np.float64)
    return np.bincount(code, counted, size).astype(np.float64)


def _clustered(groups: Groups, cluster: np.ndarray, outcomes: Mapping[str, np.ndarray], weight: np.ndarray | None) -> Clustered:
    names, code = _numbered(cluster), groups.code
    count, rows = int(names.max()) + 1, len(names)
    places = len(groups.first) * count
    if places > _PARTS_A_ROW * rows:
        # Hardly two rows would share a part, so each row is one: to look for the few would cost more than they save.
        ones = np.ones(rows) if weight is None else weight
        return Clustered(code, names, {name: Sums(ones, y, np.zeros(rows)) for name, y in outcomes.items()})
    part = code * count + names
    kept = np.flatnonzero(np.bincount(part, minlength=places))
    sums = {name: Sums.of(part, places, y, weight).at(kept) for name, y in outcomes.items()}
    return Clustered(kept // count, kept % count, sums)


def _numbered(cluster: np.ndarray) -> np.ndarray:
    """Clusters as numbers from 0, few more than there are clusters."""
    if len(cluster) and cluster.min() >= 0 and cluster.max() < 2 * len(cluster):
        return cluster
    return grouped([cluster], rows=len(cluster)).code
