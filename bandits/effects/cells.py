"""Lossless compression: rows that are alike in all that a regression conditions on become one cell with sums (Wong et al. 2021, YOCO).

    cell c:   W_c = sum w_i,   m_c = sum w_i y_i / W_c,   S_c = sum w_i (y_i - m_c)^2

From these every sum over rows of a regression on columns that are constant in a cell follows, the squared residuals too:
sum w_i (y_i - f)^2 = S_c + W_c (m_c - f)^2. Sums are kept about their mean, so that nothing cancels. Errors that are robust need the same
three with the weights squared, errors that are clustered need W and W m by (cell, cluster). Pure.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse

from bandits.effects.grouping import Groups, grouped

__all__ = ["Cells", "Clustered", "Sums", "compress"]

# Places of (cell, cluster) for each row beyond which rows are not brought together by them.
_PARTS_A_ROW = 2


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
        # In place: a table of many rows is slow to ask for memory, not to compute.
        squared = mean[code]
        squared -= y
        squared *= squared
        if weight is not None:
            squared *= weight
        return cls(total, mean, np.bincount(code, squared, size))

    def at(self, chosen: np.ndarray) -> "Sums":
        """The sums of some cells: a mask, or their places."""
        return Sums(*(values[chosen] for values in (self.weight, self.mean, self.spread)))


class Clustered(NamedTuple):
    """Parts of cells by cluster: `cell`, `cluster` i64[M] >= 0, ascending; `sums` by outcome, with the plain weights."""

    cell: np.ndarray
    cluster: np.ndarray
    sums: Mapping[str, Sums]

    @property
    def starts(self) -> np.ndarray:
        """The first part of each cluster, and the end of the last, i64[G + 1]."""
        return np.flatnonzero(np.r_[True, self.cluster[1:] != self.cluster[:-1], True])

    def ordered(self) -> "Clustered":
        """Parts in any order, by cluster."""
        order = np.argsort(self.cluster, kind="stable")
        return Clustered(self.cell[order], self.cluster[order], {name: each.at(order) for name, each in self.sums.items()})


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
        rows=next(iter(sums.values())).weight if weight is None or frequency else np.bincount(groups.code, weight > 0.0, size),
        sums=sums,
        squared=squared,
        clustered=None if cluster is None else _clustered(groups, cluster, outcomes, weight),
    )


def _clustered(groups: Groups, cluster: np.ndarray, outcomes: Mapping[str, np.ndarray], weight: np.ndarray | None) -> Clustered:
    names, code = _numbered(cluster), groups.code
    count, rows = int(names.max()) + 1, len(names)
    places = len(groups.first) * count
    if places > _PARTS_A_ROW * rows:
        # Hardly two rows would share a part, so each row is one: to look for the few would cost more than they save.
        ones = np.ones(rows) if weight is None else _by_cluster(weight, names)
        sums = {name: Sums(ones, _by_cluster(y, names), np.zeros(rows)) for name, y in outcomes.items()}
        return Clustered(_by_cluster(code, names), np.repeat(np.arange(count), np.bincount(names)), sums)
    part = names * len(groups.first) + code
    kept = np.flatnonzero(np.bincount(part, minlength=places))
    sums = {name: Sums.of(part, places, y, weight).at(kept) for name, y in outcomes.items()}
    return Clustered(kept % len(groups.first), kept // len(groups.first), sums)


def _numbered(cluster: np.ndarray) -> np.ndarray:
    """Clusters as numbers from 0, few more than there are clusters."""
    if len(cluster) and cluster.min() >= 0 and cluster.max() < 2 * len(cluster):
        return cluster
    return grouped([cluster], rows=len(cluster)).code


def _by_cluster(values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Values of rows, those of a cluster together: as another format of a sparse matrix that is a count and a copy, and no sort."""
    return scipy.sparse.csr_array((values, names, np.arange(len(names) + 1))).tocsc().data
