"""Ridge regressions of many penalties from one decomposition, on cells. Pure.

With U the columns that are not penalised and P the others, G = X'WX and m = X'W y:

    G_P.U = G_PP - G_PU G_UU^-1 G_UP = V diag(s) V',    b_P(l) = V diag(1 / (s + l W)) V' (m_P - G_PU G_UU^-1 m_U)

W the summed weights, so that a penalty means what `fit.normal` means by it.
"""

from collections.abc import Sequence

import numpy as np

from bandits.effects.cells import Cells
from bandits.effects.fit import Normal

__all__ = ["ridge_path"]


def ridge_path(
    equations: Normal, cells: Cells, outcome: str, *, penalties: Sequence[float], penalised: np.ndarray | None = None
) -> np.ndarray:
    """Coefficients in raw units for each penalty >= 0, f64[L, p]; `equations` without a penalty of their own.

    `penalised` bool[p] = which columns are (all but the intercept).
    """
    design, gram, weight = equations.design, equations.gram, equations.weight
    chosen = np.arange(len(gram)) > 0 if penalised is None else penalised
    moments = design.matrix.T @ (weight * cells.sums[outcome].mean)
    u, p = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    across = np.linalg.solve(gram[np.ix_(u, u)], np.column_stack([gram[np.ix_(u, p)], moments[u]]))
    rest = gram[np.ix_(p, p)] - gram[np.ix_(p, u)] @ across[:, :-1]
    values, vectors = np.linalg.eigh(rest)
    turned = vectors.T @ (moments[p] - gram[np.ix_(p, u)] @ across[:, -1])
    b = np.empty((len(penalties), len(gram)))
    b[:, p] = (turned / (values + np.asarray(penalties)[:, None] * weight.sum())) @ vectors.T
    b[:, u] = across[:, -1] - b[:, p] @ across[:, :-1].T
    return b @ design.raw().T
