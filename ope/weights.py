"""Weights made tamer: less variance for some bias, by one number. Pure, elementwise over w >= 0, f64[n] or f64[n, 1].

clipped        min(w, limit)
switched       w where w <= limit, else 0               Wang, Agarwal and Dudik (2017): there the model alone speaks
shrunk         limit w / (w^2 + limit)                  Su, Dimakopoulou, Krishnamurthy and Dudik (2020), the optimistic form
sub_gaussian   w / (1 - pull + pull w)                  Metelli, Russo and Restelli (2021), with s = -1
"""

import math

import numpy as np

from ope.rows import Floats

__all__ = ["clipped", "shrunk", "sub_gaussian", "switched"]


def clipped(weight: Floats, limit: float) -> Floats:
    """The weight, at most `limit` > 0."""
    return np.minimum(weight, limit)


def switched(weight: Floats, limit: float) -> Floats:
    """The weight where it is at most `limit` >= 0, elsewhere 0."""
    return np.where(weight <= limit, weight, 0.0)


def shrunk(weight: Floats, limit: float) -> Floats:
    """The weight, drawn to 0 the more the larger it is; `limit` >= 0: infinity leaves it, 0 is 0 everywhere."""
    if math.isinf(limit):
        return weight
    return np.zeros_like(weight) if limit == 0 else limit * weight / (weight**2 + limit)


def sub_gaussian(weight: Floats, pull: float) -> Floats:
    """The weight, drawn to 1; `pull` in [0, 1): 0 leaves it, and above 0 no weight exceeds 1 / pull."""
    return weight / (1 - pull + pull * weight)
