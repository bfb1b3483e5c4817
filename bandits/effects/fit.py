"""Least squares and ridge on cells, with errors that are those of the rows. Pure.

    b = (X'WX + P)^-1 X'W m           m the means of the cells, W their summed weights, P the ridge penalty (0 = least squares)
    V = B M B,  B = (X'WX + P)^-1     M by kind, with e the residual of a row:

    homoskedastic   s^2 X'WX,  s^2 = sum w e^2 / (n - p)
    hc0             sum v x x' e^2          v = w^2, or w where weights are frequencies (White 1980)
    hc1             hc0 times n / (n - p)
    hc2, hc3        hc0 with e^2 over 1 - h and (1 - h)^2, h = x'B x of a row of weight one (MacKinnon and White 1985)
    cluster         sum_g u_g u_g',  u_g = sum_{i in g} w x e, times G / (G - 1) (n - 1) / (n - p)

n rows (of frequencies: their sum), p columns (of a ridge: its effective ones), G clusters.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.special

from bandits.effects.cells import Cells
from bandits.effects.design import Design
from bandits.errors import ExperimentError

__all__ = ["Dropped", "ErrorKind", "Fit", "Normal", "fit", "normal"]

ErrorKind = Literal["homoskedastic", "hc0", "hc1", "hc2", "hc3", "cluster"]
_POWERS = {"hc0": 0, "hc1": 0, "hc2": 1, "hc3": 2}
# What is left of a column of unit length, squared, when the columns before it are taken out: below this it is their combination.
_COLLINEAR = 1e-10


class Dropped(NamedTuple):
    """A column that says nothing beside the ones before it: `because` constant, or a combination of them."""

    column: str
    because: str
    of: tuple[str, ...] = ()


class Normal(NamedTuple):
    """The normal equations of a design, factorised once for every outcome: `design` without what was dropped, `weight` f64[C].

    `gram` X'WX, `penalty` the diagonal of P, `bread` B; `absorbed`: columns that were taken out of the design and count all the same.
    """

    design: Design
    weight: np.ndarray
    gram: np.ndarray
    penalty: np.ndarray
    bread: np.ndarray
    dropped: tuple[Dropped, ...]
    absorbed: int = 0

    @property
    def effective(self) -> float:
        """p: columns, or of a ridge the trace of its hat matrix."""
        return float(np.sum(self.bread * self.gram)) + self.absorbed


class Fit(NamedTuple):
    """Coefficients in raw units f64[p], their covariances [p, p] by kind of error, and the degrees of freedom of each kind."""

    names: tuple[str, ...]
    coefficient: np.ndarray
    covariance: Mapping[str, np.ndarray]
    degrees: Mapping[str, float]
    rows: float
    clusters: int

    def error(self, kind: str) -> np.ndarray:
        """Standard errors of the coefficients, f64[p]."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance[kind]), 0.0))

    def combined(self, weights: np.ndarray, kind: str) -> tuple[float, float]:
        """Value and standard error of a combination of coefficients, `weights` f64[p]."""
        return float(weights @ self.coefficient), float(np.sqrt(max(weights @ self.covariance[kind] @ weights, 0.0)))

    def interval(self, value: float, error: float, kind: str, *, level: float = 0.95) -> tuple[float, float]:
        """The interval by Student's t with the degrees of freedom of this kind."""
        reach = float(scipy.special.stdtrit(self.degrees[kind], 0.5 + level / 2)) * error
        return value - reach, value + reach

    def p_value(self, value: float, error: float, kind: str) -> float:
        """Two-sided p-value of the hypothesis that the value is zero; NaN where the error is zero."""
        return float(2 * scipy.special.stdtr(self.degrees[kind], -abs(value / error))) if error > 0.0 else float("nan")


def normal(design: Design, weight: np.ndarray, *, penalty: float = 0.0, penalised: np.ndarray | None = None) -> Normal:
    """Factorises X'WX + P. Columns that are combinations of earlier ones are dropped, by name.

    `penalty` >= 0 on the coefficients of standardised columns, times the summed weights; `penalised` bool[p] = which (all but the
    intercept).
    """
    gram = design.gram(weight)
    kept, dropped = _independent(gram, design.names)
    if not kept.all():
        design, gram = design.columns(kept), gram[np.ix_(kept, kept)]
    ridge = np.arange(len(gram)) > 0 if penalised is None else penalised[kept]
    diagonal = penalty * weight.sum() * ridge
    return Normal(design, weight, gram, diagonal, _inverse(gram + np.diag(diagonal)), dropped)


def fit(
    equations: Normal,
    cells: Cells,
    outcome: str,
    *,
    errors: Sequence[ErrorKind] = ("homoskedastic", "hc0", "hc1"),
    regressors: np.ndarray | None = None,
) -> Fit:
    """Regression of an outcome's cells, with covariances of the kinds asked for.

    `regressors` f64[C, p], where the design's columns are their projections on instruments: residuals are then those of the columns
    themselves, which makes it two-stage least squares.

    Raises ExperimentError where there are no more rows than columns, or fewer than two clusters.
    """
    design, sums = equations.design, cells.sums[outcome]
    b = _coefficients(equations, sums.mean)
    rows, p = float(cells.rows.sum()), equations.effective
    if rows - p <= 1e-9:
        raise ExperimentError(
            f"covariates: {len(design.names)} columns for {rows:g} rows of {outcome!r} leave nothing to estimate an error of"
        )
    back = design.raw()
    fitted = (design.matrix if regressors is None else regressors) @ b
    clusters = 0 if cells.clustered is None else len(cells.clustered.starts) - 1
    scaled = {kind: _meat(kind, equations, cells, outcome, fitted) * _factor(kind, rows, p, clusters) for kind in errors}
    outer = back @ equations.bread
    return Fit(
        names=design.names,
        coefficient=back @ b,
        covariance={kind: outer @ meat @ outer.T for kind, meat in scaled.items()},
        degrees={kind: float(clusters - 1) if kind == "cluster" else rows - p for kind in errors},
        rows=rows,
        clusters=clusters,
    )


def _coefficients(equations: Normal, mean: np.ndarray) -> np.ndarray:
    """Solves, and once more for what is left: the second step mends the digits that normal equations lose."""
    x, w = equations.design.matrix, equations.weight
    b = equations.bread @ (x.T @ (w * mean))
    return b + equations.bread @ (x.T @ (w * (mean - x @ b)) - equations.penalty * b)


def _meat(kind: ErrorKind, equations: Normal, cells: Cells, outcome: str, fitted: np.ndarray) -> np.ndarray:
    if kind == "homoskedastic":
        sums = cells.sums[outcome]
        return equations.gram * float(np.sum(sums.spread + sums.weight * (sums.mean - fitted) ** 2))
    if kind == "cluster":
        scores = _scores(equations.design, cells, outcome, fitted)
        return scores.T @ scores
    sums = cells.squared[outcome]
    squared = sums.spread + sums.weight * (sums.mean - fitted) ** 2
    return equations.design.gram(squared / _free(equations, cells, kind) if _POWERS[kind] else squared)


def _free(equations: Normal, cells: Cells, kind: ErrorKind) -> np.ndarray:
    """(1 - h)^1 or ^2 of the rows of each cell, f64[C]; they are alike in all columns, so in h."""
    x = equations.design.matrix
    h = np.asarray((x.multiply(x @ equations.bread) if scipy.sparse.issparse(x) else x * (x @ equations.bread)).sum(axis=1)).ravel()
    if np.any((h > 1.0 - 1e-9) & (cells.rows > 0.0)):
        raise ExperimentError(
            f"errors: {kind} has no value where one row alone determines a column, such as an arm or level of one row; take hc1, or "
            "leave that row out"
        )
    return (1.0 - h) ** _POWERS[kind]


def _scores(design: Design, cells: Cells, outcome: str, fitted: np.ndarray) -> np.ndarray:
    """u_g, f64[G, p]: sums over the parts of cells that lie in a cluster."""
    parts = cells.clustered
    if parts is None:
        raise ExperimentError("errors: `cluster` asks for a column of clusters; name it under `cluster`")
    starts = parts.starts
    count = len(starts) - 1
    if count < 2:
        raise ExperimentError("cluster: all rows are of one cluster, which says nothing of the error; name a column with many")
    sums = parts.sums[outcome]
    residual = sums.weight * (sums.mean - fitted[parts.cell])
    scores = scipy.sparse.csr_array((residual, parts.cell, starts), shape=(count, cells.size)) @ design.matrix
    return scores.toarray() if scipy.sparse.issparse(scores) else scores


def _factor(kind: ErrorKind, rows: float, p: float, clusters: int) -> float:
    if kind == "cluster":
        return clusters / max(clusters - 1, 1) * (rows - 1) / (rows - p)
    return {"homoskedastic": 1.0 / (rows - p), "hc1": rows / (rows - p)}.get(kind, 1.0)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    scale = 1.0 / np.sqrt(np.diagonal(matrix))
    factor = scipy.linalg.cho_factor(matrix * scale * scale[:, None])
    return scipy.linalg.cho_solve(factor, np.eye(len(matrix))) * scale * scale[:, None]


def _independent(gram: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[Dropped, ...]]:
    """Which columns are no combination of earlier ones, bool[p], and what is said of the others."""
    size = np.sqrt(np.diagonal(gram))
    unit = gram / np.where(size > 0.0, size, 1.0) / np.where(size > 0.0, size, 1.0)[:, None]
    kept, rest, dropped = size > 0.0, unit.copy(), []
    for j in range(len(unit)):
        if kept[j] and rest[j, j] > _COLLINEAR:
            rest[j + 1 :, j + 1 :] -= np.outer(rest[j + 1 :, j], rest[j, j + 1 :]) / rest[j, j]
            continue
        kept[j] = False
        dropped.append(_reason(unit, kept[:j], j, names) if size[j] > 0.0 else Dropped(names[j], "constant"))
    return kept, tuple(dropped)


def _reason(unit: np.ndarray, before: np.ndarray, j: int, names: Sequence[str]) -> Dropped:
    places = np.flatnonzero(before)
    parts = np.linalg.solve(unit[np.ix_(places, places)], unit[places, j])
    return Dropped(
        names[j], "collinear", tuple(names[place] for place, part in zip(places.tolist(), parts, strict=True) if abs(part) > 1e-6)
    )
