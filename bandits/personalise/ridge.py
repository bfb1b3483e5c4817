"""Ridge regression whose penalty is chosen by generalised cross-validation, all penalties from one decomposition. Pure.

b(l) = V diag(s / (s^2 + l)) U'y,    GCV(l) = n RSS(l) / (n - 1 - sum s^2 / (s^2 + l))^2      (Golub, Heath, Wahba 1979)
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Linear", "ridge"]

_PENALTIES = np.logspace(-4, 4, 33)


class Linear(NamedTuple):
    """y = `intercept` + x . `weight`, f64[d]; `penalty` as it was chosen, a row."""

    intercept: float
    weight: np.ndarray
    penalty: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predictions of rows f64[n, d]."""
        return self.intercept + x @ self.weight


def ridge(x: np.ndarray, y: np.ndarray, *, weight: np.ndarray | None = None) -> Linear:
    """Ridge of y f64[n] on x f64[n, d], whose columns are standardised first; a constant column gets zero. `weight` f64[n] of rows."""
    n, share = len(y), np.full(len(y), 1 / len(y)) if weight is None else weight / weight.sum()
    centre, mean = share @ x, float(share @ y)
    spread = np.sqrt(share @ (x - centre) ** 2)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(centre), 1.0), spread, np.inf)
    z = (x - centre) / scale
    gram, moments = z.T @ (share[:, None] * z), z.T @ (share * (y - mean))
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    moments = vectors.T @ moments
    rss = float(share @ (y - mean) ** 2) - (
        (2 / (values + _PENALTIES[:, None]) - values / (values + _PENALTIES[:, None]) ** 2) * moments**2
    ).sum(1)
    used = 1.0 + (values / (values + _PENALTIES[:, None])).sum(axis=1)
    at = int(np.argmin(np.where(used < n, np.maximum(rss, 0.0) / np.maximum(1.0 - used / n, 1e-9) ** 2, np.inf)))
    slopes = vectors @ (moments / (values + _PENALTIES[at])) / scale
    return Linear(float(mean - centre @ slopes), slopes, float(_PENALTIES[at]))
