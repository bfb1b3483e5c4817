"""Choosing how far to tame the weights, on the log itself, and saying what was chosen. Pure.

    slope   Lepski's principle: from the widest interval to the narrowest, the last candidate whose interval still meets all wider ones
            (Tucker and Lee, "Improved estimator selection for off-policy evaluation", 2021: SLOPE++, C = sqrt(6) - 1)
    mse     the least (upper bound of the bias)^2 + variance (Su, Dimakopoulou, Krishnamurthy and Dudik, 2020, section 5)

All candidates are kept in one pass, as if each were a policy of its own; the bias of a candidate is its distance from the untamed one.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import stats

from ope.errors import RowsError
from ope.estimate import Estimate, estimate_of
from ope.estimators import Estimator, Family, require
from ope.intervals import STUDENT_T, Interval
from ope.moments import NUMERATOR, Moments, Terms, gather, merge, squared_influence, totals, units
from ope.rows import Batch, Floats, check

__all__ = ["METHODS", "Candidates", "candidates", "least_error", "slope", "tuned"]

# Of the one-sided bounds: 1 - DELTA of the time they hold.
DELTA = 0.1
_C = math.sqrt(6) - 1


class Candidates(NamedTuple):
    """Values of P candidates on the same rows, with what is known of their errors; the last one leaves the weights alone."""

    value: Floats
    # Standard errors, clustered by unit, of the sample variance with n - 1.
    error: Floats
    rows: int
    units: int
    # Mean square and largest of the untamed weights.
    weight_square: float
    weight_largest: float


def slope(found: Candidates, *, delta: float = DELTA) -> int:
    """Index of the candidate that SLOPE++ takes."""
    width = found.error * stats.t.isf(delta, found.units - 1)
    order = np.argsort(width, kind="stable")[::-1]
    for place, at in enumerate(order):
        wider = order[:place]
        if (np.abs(found.value[wider] - found.value[at]) > width[at] + _C * width[wider]).any():
            return int(order[place - 1])
    return int(order[-1])


def least_error(found: Candidates, *, delta: float = DELTA) -> int:
    """Index of the candidate with the least bound on its squared error; the first of equals."""
    log = math.log(2 / delta)
    bias = np.abs(found.value[-1] - found.value)
    bias = bias + math.sqrt(2 * found.weight_square * log / found.rows) + 2 * found.weight_largest * log / (3 * found.rows)
    variance = found.error**2 * (found.units - 1) / found.units
    return int(np.argmin(variance + bias**2))


METHODS: Mapping[str, Callable[[Candidates], int]] = MappingProxyType({"slope": slope, "mse": least_error})


def candidates(moments: Moments) -> Candidates:
    """The candidates that moments of a tuned estimator hold, one a policy."""
    count, rows = units(moments), int(moments.unit_rows + moments.alone_rows)
    value = totals(moments)[:, NUMERATOR] / rows
    return Candidates(
        value,
        np.array([_error(moments, policy, float(at), rows) for policy, at in enumerate(value)]),
        rows,
        count,
        float(moments.weight_square[-1, 0] / rows),
        float(moments.weight_largest[-1, 0]),
    )


def _error(moments: Moments, policy: int, value: float, rows: int) -> float:
    gradient = np.zeros_like(moments.alone_mean)
    gradient[policy, :2] = 1 / rows, -value / rows
    count = units(moments)
    return math.sqrt(squared_influence(moments, gradient) * count / (count - 1))


def tuned(family: Family, *, method: str, numbers: tuple[float, ...] = ()) -> Estimator:
    """The family with its number chosen by `method` among `numbers` (its own candidates where none are given).

    Its error takes the choice as given. Its terms are refused: two policies are compared at one number that was fixed before.
    """
    numbers = numbers or family.candidates
    name = f"{family.name}:{method}"

    def moments(batch: Batch) -> Moments:
        require(batch, name=name, needs=family.needs)
        batch = check(batch)
        return gather([family.at(number)(batch) for number in numbers], unit=batch.unit)

    def finish(moments: Moments, level: float, interval: Interval = STUDENT_T) -> Estimate:
        at, choice = len(numbers) - 1, "no choice: fewer than two units"
        if units(moments) > 1:
            at = METHODS[method](candidates(moments))
            choice = f"{family.name}:{numbers[at]:g} by {method}, of {', '.join(f'{number:g}' for number in numbers)}"
        return estimate_of(moments, policy=at, level=level, interval=interval, assumption=family.assumption, choice=choice)

    def terms(batch: Batch) -> Terms:
        raise RowsError(
            f"`{name}` chooses its number on the rows; a pair needs one number for both: name it, say {family.name}:{numbers[0]:g}"
        )

    return Estimator(name, family.assumption, family.needs, terms, moments, merge, finish)
