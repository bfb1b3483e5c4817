"""Two policies on the same rows: their values, and the difference with the error of the difference. Pure.

Most of the noise of two estimates from one log is common to both, and cancels: the paired error is several times smaller than that
of two separate estimates. The influence of a unit on the difference is

    psi_u = (A1_u - theta1 B1_u) / B1 - (A2_u - theta2 B2_u) / B2

with A, B the unit's numerator and denominator; the variance is U / (U - 1) sum_u psi_u^2 (delta method, clustered by unit).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ope.errors import RowsError
from ope.estimate import Estimate, difference_of, estimate_of
from ope.estimators import Estimator
from ope.intervals import STUDENT_T, Interval
from ope.moments import Moments, gather, merge
from ope.rows import Batch

__all__ = ["Comparison", "FinishPair", "Paired", "paired"]


class Comparison(NamedTuple):
    """Challenger, champion, and challenger less champion, on the same rows."""

    challenger: Estimate
    champion: Estimate
    difference: Estimate


class FinishPair(Protocol):
    """(moments, level) -> Comparison; with Student-t intervals unless another is given. `level` in (0, 0.5)."""

    def __call__(self, moments: Moments, level: float, interval: Interval = ...) -> Comparison: ...


class Paired(NamedTuple):
    """An estimator of two policies at once."""

    name: str
    # (challenger's batch, champion's batch) -> moments. Raises RowsError if they are not of the same rows.
    moments: Callable[[Batch, Batch], Moments]
    merge: Callable[[Moments, Moments], Moments]
    finish: FinishPair


def paired(estimator: Estimator) -> Paired:
    """The paired difference under any estimator of the catalog."""

    def moments(challenger: Batch, champion: Batch) -> Moments:
        _same_rows(challenger, champion)
        return gather([estimator.terms(challenger), estimator.terms(champion)], unit=challenger.unit)

    def finish(moments: Moments, level: float, interval: Interval = STUDENT_T) -> Comparison:
        found = Comparison(
            challenger=estimate_of(moments, policy=0, level=level, interval=interval),
            champion=estimate_of(moments, policy=1, level=level, interval=interval),
            difference=difference_of(moments, level=level, interval=interval),
        )
        return Comparison(*(_of(estimator, estimate) for estimate in found))

    return Paired(estimator.name, moments, merge, finish)


def _of(estimator: Estimator, estimate: Estimate) -> Estimate:
    reasons = estimate.reasons + estimator.doubts
    return dataclasses.replace(estimate, denominator=estimator.denominator, assumption=estimator.assumption, reasons=reasons)


def _same_rows(challenger: Batch, champion: Batch) -> None:
    if not np.array_equal(challenger.reward, champion.reward):
        raise RowsError("reward of challenger and champion differ; a paired difference needs one set of rows with two sets of weights")
    units = [batch.unit for batch in (challenger, champion) if batch.unit is not None]
    if len(units) == 1 or (units and not np.array_equal(units[0], units[1])):
        raise RowsError("unit of challenger and champion differ; a paired difference needs one set of rows with two sets of weights")
