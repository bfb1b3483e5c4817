"""Weights of continuous actions: a logged action counts by how near it is to the one that the target would take. Pure.

    w = K((target - logged) / h) / (h density)                 Kallus and Zhou (2018), equation 4

With the deterministic target's action, K a density (it integrates to 1), h the bandwidth in the action's unit, and the logged density.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError
from ope.rows import Floats

__all__ = ["KERNELS", "kernel_weights"]


def _gaussian(u: Floats) -> Floats:
    return np.asarray(np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi))


def _within_one(u: Floats) -> Floats:
    return np.minimum(np.abs(u), 1.0)


KERNELS: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {
        "epanechnikov": lambda u: 0.75 * (1 - _within_one(u) ** 2),
        "triangular": lambda u: 1 - _within_one(u),
        "cosine": lambda u: math.pi / 4 * np.cos(math.pi / 2 * _within_one(u)),
        "gaussian": _gaussian,
    }
)


def kernel_weights(*, logged: npt.ArrayLike, target: npt.ArrayLike, density: npt.ArrayLike, kernel: str, bandwidth: float) -> Floats:
    """Weights f64[n] of `logged` actions [n] under the `target`'s [n]; `density` [n] > 0 of the logging policy at the logged action.

    Raises RowsError for an unknown kernel, a bandwidth or a density that is not positive.
    """
    if kernel not in KERNELS:
        raise RowsError(f"kernel {kernel!r} is unknown; known: {', '.join(KERNELS)}")
    if not bandwidth > 0:
        raise RowsError(f"bandwidth is {bandwidth}; give a distance between actions, > 0")
    logged, target, density = (np.asarray(values, np.float64) for values in (logged, target, density))
    if not (density > 0).all():
        row = int(np.flatnonzero(~(density > 0))[0])
        raise RowsError(f"density of row {row} is {density[row]}; it must be > 0: leave out such rows")
    return np.asarray(KERNELS[kernel]((target - logged) / bandwidth) / (bandwidth * density))
