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


def ridge(x: np.ndarray, y: np.ndarray) -> Linear:
    """Ridge of y f64[n] on x f64[n, d], whose columns are standardised first; a constant column has weight zero."""
    n = len(y)
    centre, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(centre), 1.0), spread, np.inf)
    z = (x - centre) / scale
    values, vectors = np.linalg.eigh(z.T @ z / n)
    values = np.maximum(values, 0.0)
    moments = vectors.T @ (z.T @ (y - y.mean())) / n
    rss = float(np.mean((y - y.mean()) ** 2)) - (
        (2 / (values + _PENALTIES[:, None]) - values / (values + _PENALTIES[:, None]) ** 2) * moments**2
    ).sum(1)
    used = 1.0 + (values / (values + _PENALTIES[:, None])).sum(axis=1)
    at = int(np.argmin(np.where(used < n, np.maximum(rss, 0.0) / np.maximum(1.0 - used / n, 1e-9) ** 2, np.inf)))
    weight = vectors @ (moments / (values + _PENALTIES[at])) / scale
    return Linear(float(y.mean() - centre @ weight), weight, float(_PENALTIES[at]))
