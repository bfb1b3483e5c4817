"""Regression row by row in float64, as textbooks write it: what effects on cells are compared with."""

from typing import NamedTuple

import numpy as np

__all__ = ["Reference", "regression"]


class Reference(NamedTuple):
    coefficient: np.ndarray
    covariance: dict[str, np.ndarray]


def regression(
    x: np.ndarray, y: np.ndarray, *, weight: np.ndarray | None = None, kind: str = "analytic", cluster: np.ndarray | None = None
) -> Reference:
    """Weighted least squares of y on the columns of x (intercept among them), with every error. A frequency repeats its row."""
    if weight is not None and kind == "frequency":
        times = weight.astype(int)
        return regression(np.repeat(x, times, axis=0), np.repeat(y, times), cluster=None if cluster is None else np.repeat(cluster, times))
    w = np.ones(len(y)) if weight is None else weight
    n, p = x.shape
    root = np.sqrt(w)
    q, r = np.linalg.qr(root[:, None] * x)
    b = np.linalg.solve(r, q.T @ (root * y))
    bread = np.linalg.inv(r) @ np.linalg.inv(r).T
    residual = y - x @ b
    scores = x * (w * residual)[:, None]
    covariance = {
        "homoskedastic": bread * float(np.sum(w * residual**2) / (n - p)),
        "hc0": bread @ (scores.T @ scores) @ bread,
        "hc1": bread @ (scores.T @ scores) @ bread * n / (n - p),
    }
    if cluster is not None:
        names = np.unique(cluster)
        sums = np.array([scores[cluster == name].sum(axis=0) for name in names])
        small = len(names) / (len(names) - 1) * (n - 1) / (n - p)
        covariance["cluster"] = bread @ (sums.T @ sums) @ bread * small
    return Reference(b, covariance)
