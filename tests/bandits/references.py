"""Slow, obvious float64 answers that the tests compare with."""

import numpy as np
from scipy.special import log_ndtr

__all__ = ["win_probability_reference"]


def win_probability_reference(mean: np.ndarray, scale: np.ndarray, *, per_arm: int = 2001) -> np.ndarray:
    """P(arm k is the largest) f64[K]: three Gauss nodes in each cell of a grid that has `per_arm` points over 9 deviations of every arm."""
    points = np.unique(np.concatenate([m + s * np.linspace(-9.0, 9.0, per_arm) for m, s in zip(mean, scale, strict=True)]))
    points = points[points >= np.max(mean - 9.0 * scale)]
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(points) / 2.0, (points[1:] + points[:-1]) / 2.0
    t, weight = (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()
    z = (t - mean[:, None]) / scale[:, None]
    below = log_ndtr(z)
    density = np.exp(-0.5 * z * z + below.sum(axis=0) - below) / (scale[:, None] * np.sqrt(2.0 * np.pi))
    return density @ weight
