"""Effects as a function of covariates, with standard errors that hold: a regression of doubly robust scores on a few columns. Pure.

    G[i, a] - G[i, 0] = beta_a . b(x_i) + error,     V = B (sum b b' e^2) B n / (n - p),  B = (sum b b')^-1

The scores' errors have mean zero given x because the propensities are known, so beta estimates the best fit of the true effect by the
columns b(x), and V (HC1) its error, whatever the outcome models are (Semenova and Chernozhukov 2021; Kennedy 2023). The average effect, and
that of any group, is b averaged over the group.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bandits.effects.cells import compress
from bandits.effects.design import assembled, intercept, number_part
from bandits.effects.fit import ErrorKind, Fit, fit, normal
from bandits.errors import ExperimentError
from bandits.personalise.learners import Learner, Rows, crossed, doubly_robust, folds_of

__all__ = ["Basis", "Cate", "cate", "lines", "splines"]

Basis = Callable[[np.ndarray], np.ndarray]


class Cate(NamedTuple):
    """Effects of each arm over the first: `fits` one an arm, by the columns of `basis` behind an intercept; errors of `kind`."""

    fits: tuple[Fit, ...]
    basis: Basis
    kind: ErrorKind = "hc1"

    def effects(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Effects for rows f64[n, d] and their standard errors, f64[n, K - 1] each."""
        columns = np.column_stack([np.ones(len(x)), self.basis(x)])
        values = np.column_stack([columns @ each.coefficient for each in self.fits])
        variance = [np.sum((columns @ each.covariance[self.kind]) * columns, axis=1) for each in self.fits]
        return values, np.sqrt(np.maximum(np.column_stack(variance), 0.0))

    def average(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The average effect over rows, by the delta method, and its standard error, f64[K - 1] each; the rows count as given."""
        mean = np.append(1.0, self.basis(x).mean(axis=0))
        found = [each.combined(mean, self.kind) for each in self.fits]
        return np.array([value for value, _ in found]), np.array([error for _, error in found])


def cate(rows: Rows, *, outcome: Learner, basis: Basis, folds: int = 5, cluster: np.ndarray | None = None) -> Cate:
    """Effects by the columns of a basis; `outcome` models are cross-fitted. Rows come in random order; `cluster` i64[n] clusters errors.

    Raises ExperimentError where a column of the basis is a combination of others, or there are more columns than rows.
    """
    scores = doubly_robust(rows, crossed(outcome, rows, folds_of(rows.arm, folds)))
    columns = {f"b{at}": values for at, values in enumerate(basis(rows.x).T)}
    cells = compress(columns, {str(arm): scores[:, arm] - scores[:, 0] for arm in range(1, rows.arms)}, cluster=cluster)
    weight = cells.sums["1"].weight
    design = assembled([intercept(cells.size), *(number_part(name, values, weight) for name, values in cells.columns.items())])
    equations = normal(design, weight)
    if equations.dropped:
        raise ExperimentError(f"basis: column {equations.dropped[0].column[1:]} is {equations.dropped[0].because}; leave it out")
    kind: ErrorKind = "hc1" if cluster is None else "cluster"
    return Cate(tuple(fit(equations, cells, str(arm), errors=[kind]) for arm in range(1, rows.arms)), basis, kind)


def lines(x: np.ndarray) -> np.ndarray:
    """The columns themselves."""
    return x


def splines(knots: Sequence[Sequence[float]]) -> Basis:
    """Piecewise lines that meet at the knots of each column: x and max(x - knot, 0); a column without knots enters as a line."""

    def basis(x: np.ndarray) -> np.ndarray:
        parts = [
            np.column_stack([column, *(np.maximum(column - knot, 0.0) for knot in own)]) for column, own in zip(x.T, knots, strict=True)
        ]
        return np.column_stack(parts)

    return basis
