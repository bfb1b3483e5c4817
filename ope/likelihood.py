"""Values by empirical likelihood: the logged rows, reweighed as little as possible so that their weights have mean 1. Pure.

Both take weights in [0, inf) and follow the definitions of Karampatziakis, Langford and Mineiro, "Empirical likelihood for contextual
bandits" (2020): mass that the reweighed rows leave short of 1 is given to the mean logged reward.
"""

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ope.rows import Floats

__all__ = ["cressie_read", "maximum_likelihood"]


def maximum_likelihood(*, weight: npt.ArrayLike, reward: npt.ArrayLike) -> float:
    """The value under the likeliest rows, from arrays [n]; needs them all at once."""
    weight, reward = np.asarray(weight, np.float64), np.asarray(reward, np.float64)
    share = 1 / ((weight - 1) * _dual(weight) + len(weight))
    missing = max(0.0, 1.0 - float((share * weight).sum()))
    return float((share * weight * reward).sum() + missing * reward.mean())


def _dual(weight: Floats) -> float:
    """The multiplier b >= 0 of mean weight 1: sum (w - 1) / ((w - 1) b + n) = 0, or the end at which it comes nearest."""
    rows = len(weight)

    def slope(multiplier: float) -> float:
        return float(((weight - 1) / ((weight - 1) * multiplier + rows)).sum())

    below = weight[weight < 1]
    largest = min(float(rows), float(((rows - 1) / (1 - below)).min()) if len(below) else float(rows))
    if slope(0.0) * slope(largest) < 0:
        return float(optimize.brentq(slope, 0.0, largest, xtol=1e-13, rtol=4 * np.finfo(float).eps))
    return 0.0 if slope(0.0) < 0 else largest


def cressie_read(*, weight: npt.ArrayLike, reward: npt.ArrayLike) -> float:
    """The value under the least power divergence with exponent -2, which has a closed form in five sums, from arrays [n]."""
    weight, reward = np.asarray(weight, np.float64), np.asarray(reward, np.float64)
    rows, total, square = len(weight), weight.sum(), (weight**2).sum()
    # One row more stands for what was not logged: of weight 0, or, where the mean weight is below 1, of a weight without bound.
    first, second = (1 + rows) / rows, 0.0
    if total >= rows:
        a, b = total / (1 + rows), square / (1 + rows)
        first, second = -(b - a) / (a * a - b), -(1 - a) / (a * a - b)
    value = (first * (weight * reward).sum() + second * (weight**2 * reward).sum()) / (1 + rows)
    missing = max(0.0, 1 - (first * total + second * square) / (1 + rows))
    return float(value + missing * reward.mean())
