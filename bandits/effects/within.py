"""A factor of many levels, taken out instead of expanded: the regression within its levels. Pure.

With D the indicators of the levels, coefficients and residuals of a regression on [X, D] are those of the regression of y - y_l on
X - X_l, less the weighted means of each level (Frisch and Waugh 1933; Lovell 1963). The mean of all rows is added back to y, so that the
intercept is that of levels which are centred by their weights. p counts the levels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse

from bandits.effects.cells import Cells, Sums
from bandits.effects.design import Design

__all__ = ["Levels", "levels_of", "within_cells", "within_design"]

# Of a column's mean square, what rounding leaves where it is the same throughout each level.
_NOTHING = 1e-18


class Levels(NamedTuple):
    """`code` i64[C]: the level of each cell, from 0 without gaps; `weight` f64[C] of the cells; `total` f64[L] by level."""

    code: np.ndarray
    weight: np.ndarray
    total: np.ndarray

    def means(self, values: np.ndarray) -> np.ndarray:
        """The weighted mean of f64[C] in the level of each cell, f64[C]."""
        size = len(self.total)
        sums = np.bincount(self.code, self.weight * values, size)
        return (sums / np.where(self.total > 0.0, self.total, 1.0))[self.code]


def levels_of(code: np.ndarray, weight: np.ndarray) -> Levels:
    """Levels by any codes i[C]."""
    _, numbered = np.unique(code, return_inverse=True)
    return Levels(numbered, weight, np.bincount(numbered, weight))


def within_cells(cells: Cells, levels: Levels) -> Cells:
    """The cells with each outcome less its mean in the level, plus its mean over all; spreads stay."""
    off = {}
    for name, sums in cells.sums.items():
        off[name] = float(np.average(sums.mean, weights=levels.weight)) - levels.means(sums.mean)
    parts = cells.clustered
    if parts is not None:
        parts = parts._replace(sums={name: _moved(sums, off[name][parts.cell]) for name, sums in parts.sums.items()})
    return cells._replace(sums=_all_moved(cells.sums, off), squared=_all_moved(cells.squared, off), clustered=parts)


def within_design(design: Design, levels: Levels) -> Design:
    """The design with each column but the intercept less its mean in the level; what does not vary within levels becomes zero.

    The columns become dense.
    """
    matrix = design.matrix.toarray() if scipy.sparse.issparse(design.matrix) else np.array(design.matrix)
    shift = design.shift.copy()
    for at in range(1, matrix.shape[1]):
        before = float(levels.weight @ matrix[:, at] ** 2)
        shift[at] += design.scale[at] * float(np.average(matrix[:, at], weights=levels.weight))
        matrix[:, at] -= levels.means(matrix[:, at])
        if float(levels.weight @ matrix[:, at] ** 2) <= _NOTHING * before:
            matrix[:, at] = 0.0
    return design._replace(matrix=matrix, shift=shift)


def _moved(sums: Sums, off: np.ndarray) -> Sums:
    return sums._replace(mean=sums.mean + off)


def _all_moved(sums: Mapping[str, Sums], off: Mapping[str, np.ndarray]) -> dict[str, Sums]:
    return {name: _moved(each, off[name]) for name, each in sums.items()}
