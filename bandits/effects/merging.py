"""Cells of parts of a table, merged: as if all rows had been compressed at once, to rounding. Pure.

For two parts of a cell with weights W1, W2, means m1, m2 and spreads S1, S2 (Chan, Golub, LeVeque 1983):

    W = W1 + W2,   m = m1 + (m2 - m1) W2 / W,   S = S1 + S2 + (m2 - m1)^2 W1 W2 / W

Codes of factors, arms and clusters have to mean the same in all parts.
"""

import functools
from collections.abc import Iterable, Mapping

import numpy as np

from bandits.effects.cells import Cells, Clustered, Sums
from bandits.effects.grouping import Groups, grouped

__all__ = ["merged", "merged_all"]


def merged(one: Cells, other: Cells) -> Cells:
    """Cells of the rows of both; columns and outcomes are the same, and both have clusters or neither."""
    columns = {name: np.concatenate([values, other.columns[name]]) for name, values in one.columns.items()}
    groups = grouped(list(columns.values()), rows=one.size + other.size)
    size = len(groups.first)
    return Cells(
        columns={name: values[groups.first] for name, values in columns.items()},
        rows=np.bincount(groups.code, np.concatenate([one.rows, other.rows]), size),
        sums=_all_outcomes(groups, one.sums, other.sums),
        squared=_all_outcomes(groups, one.squared, other.squared),
        clustered=_clustered(groups, one, other),
    )


def merged_all(parts: Iterable[Cells]) -> Cells:
    """Cells of the rows of all parts, which are read one after another and may be many."""
    return functools.reduce(merged, parts)


def _all_outcomes(groups: Groups, one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    return {
        name: _sums(groups, Sums(*(np.concatenate(both) for both in zip(each, other[name], strict=True)))) for name, each in one.items()
    }


def _sums(groups: Groups, parts: Sums) -> Sums:
    size = len(groups.first)
    weight = np.bincount(groups.code, parts.weight, size)
    mean = np.bincount(groups.code, parts.weight * parts.mean, size) / np.where(weight > 0.0, weight, 1.0)
    between = parts.weight * (parts.mean - mean[groups.code]) ** 2
    return Sums(weight, mean, np.bincount(groups.code, parts.spread + between, size))


def _clustered(groups: Groups, one: Cells, other: Cells) -> Clustered | None:
    if one.clustered is None or other.clustered is None:
        return None
    cell = groups.code[np.concatenate([one.clustered.cell, one.size + other.clustered.cell])]
    cluster = np.concatenate([one.clustered.cluster, other.clustered.cluster])
    parts = grouped([cell, cluster], rows=len(cell))
    sums = _all_outcomes(parts, one.clustered.sums, other.clustered.sums)
    return Clustered(cell[parts.first], cluster[parts.first], sums).ordered()
