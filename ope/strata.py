"""Several logging policies: each stratum of the log estimates alone, and the estimates are weighed by their precision. Pure.

    weighted_ips   sum_k c_k ips_k                       c_k = precision_k / sum_j precision_j
    weighted_dr    mean(v) + sum_k c_k mean_k(w (r - q))

precision_k is one over the squared standard error of stratum k (Agarwal et al., "Effective evaluation using logged bandit feedback from
multiple loggers", 2017, section 4). A stratum's own logger may have learned from earlier strata: each row keeps its own propensity.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ope.errors import RowsError
from ope.estimators import estimator
from ope.moments import DENOMINATOR, NUMERATOR, Moments, gather, squared_influence, totals, units
from ope.rows import Batch, Floats

__all__ = ["Weighted", "stratum", "weighted"]


class Weighted(NamedTuple):
    """A value over strata, its standard error with the shares taken as given, and those shares f64[K]."""

    value: float
    standard_error: float
    share: Floats


def stratum(batch: Batch, *, name: str) -> Moments:
    """Moments of one stratum's rows for `name`, ips or dr; parts of a stratum merge as moments do."""
    if name not in ("ips", "dr"):
        raise RowsError(f"name is {name!r}; strata are weighed for ips or dr")
    entry = estimator(name)
    # The second place is what is averaged plainly over all rows: the model's value for dr, nothing for ips.
    plain = estimator("dm").terms(batch) if name == "dr" else None
    first = entry.terms(batch)
    none = np.zeros(len(first.numerator))
    second = first._replace(numerator=none if plain is None else plain.numerator)
    return gather([first, second], unit=batch.unit)


def weighted(strata: Sequence[Moments]) -> Weighted:
    """The value over the strata. Raises RowsError where a stratum has no spread to be weighed by."""
    precision = np.array([1 / square if (square := _squared_error(part, 1.0, 0.0)) > 0 else math.nan for part in strata])
    if not np.isfinite(precision).all():
        raise RowsError(
            f"stratum {int(np.flatnonzero(~np.isfinite(precision))[0])}: its rows have no spread, so no precision; merge it into another"
        )
    share = precision / precision.sum()
    rows = np.array([totals(part)[0, DENOMINATOR] for part in strata])
    sums = np.array([totals(part)[:, NUMERATOR] for part in strata])
    plain = sums[:, 1].sum() / rows.sum()
    value = plain + (share * (sums[:, 0] - sums[:, 1]) / rows).sum()
    square = sum(_squared_error(part, c, n / rows.sum() - c) for part, c, n in zip(strata, share, rows, strict=True))
    return Weighted(float(value), math.sqrt(square), share)


def _squared_error(part: Moments, first: float, second: float) -> float:
    """Squared error of first x mean of place 0 + second x mean of place 1, the sum of squares undivided by n - 1."""
    if units(part) < 2:
        return math.nan
    total = totals(part)
    gradient = np.zeros_like(part.alone_mean)
    for place, factor in enumerate((first, second)):
        rows = total[place, DENOMINATOR]
        gradient[place, NUMERATOR] = factor / rows
        gradient[place, DENOMINATOR] = -factor * total[place, NUMERATOR] / rows**2
    return squared_influence(part, gradient)
