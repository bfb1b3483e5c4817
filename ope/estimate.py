"""An estimate with its error and its reasons for doubt, from moments. Pure."""

import dataclasses
import math

import numpy as np

from ope.diagnostics import SlotWeights, slot_weights
from ope.errors import RowsError
from ope.intervals import Interval
from ope.moments import DENOMINATOR, NUMERATOR, Moments, squared_influence, totals, units
from ope.rows import Floats

__all__ = ["Estimate", "difference_of", "estimate_of"]

# Below this many effective rows a normal approximation of a weighted mean is poor: the worst case of the coverage studies that we keep.
DOUBTFUL_ESS = 100.0
# One row with more than this share of all weight can move the value by as much.
DOUBTFUL_SHARE = 0.05
# A mean weight this many standard errors from 1 happens by chance once in 10,000.
DOUBTFUL_Z = 3.89


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, its error, and why one might doubt it. What could not be had is NaN, and the reasons say why."""

    # In the metric's unit, a mean per decision.
    value: float
    # Of the value, clustered by unit.
    standard_error: float
    # The interval: each end is missed with probability at most level / 2.
    lower: float
    upper: float
    interval: str
    level: float
    # Rows, and independent units among them.
    n: int
    n_units: int
    # Of the slot that decides (the smallest among the slots that carry 80 % of the value): (sum w)^2 / sum w^2, max w, mean w.
    effective_sample_size: float
    largest_weight: float
    mean_weight: float
    reasons: tuple[str, ...]


def estimate_of(moments: Moments, *, policy: int = 0, level: float, interval: Interval, doubts: tuple[str, ...] = ()) -> Estimate:
    """The estimate of one policy of the moments; `doubts` stand at the end of its reasons. `level` in (0, 0.5)."""
    gradient = np.zeros_like(moments.alone_mean)
    value, gradient[policy] = _ratio(moments, policy)
    return _with_error(moments, value, gradient, level, interval, _weights(moments, policy), _doubts(moments, policy) + doubts)


def difference_of(moments: Moments, *, level: float, interval: Interval) -> Estimate:
    """Value of policy 0 less value of policy 1 on the same rows; exactly 0 with error 0 for twins. `level` in (0, 0.5)."""
    gradient = np.zeros_like(moments.alone_mean)
    (challenger, gradient[0]), (champion, against) = _ratio(moments, 0), _ratio(moments, 1)
    gradient[1] = -against
    doubts = tuple(f"{name}: {doubt}" for p, name in enumerate(("challenger", "champion")) for doubt in _doubts(moments, p))
    return _with_error(moments, challenger - champion, gradient, level, interval, _weights(moments, 0), doubts)


def _ratio(moments: Moments, policy: int) -> tuple[float, Floats]:
    """Ratio of the totals and its gradient in them; NaN where there is no evidence."""
    total = totals(moments)[policy]
    gradient = np.zeros_like(total)
    weightless = _weights(moments, policy) is not None and not moments.weight_square[policy].any()
    if units(moments) == 0 or weightless or total[DENOMINATOR] == 0:
        return math.nan, np.full_like(total, math.nan)
    value = total[NUMERATOR] / total[DENOMINATOR]
    gradient[NUMERATOR], gradient[DENOMINATOR] = 1 / total[DENOMINATOR], -value / total[DENOMINATOR]
    return float(value), gradient


def _with_error(
    moments: Moments, value: float, gradient: Floats, level: float, interval: Interval, weights: SlotWeights | None, doubts: tuple[str, ...]
) -> Estimate:
    if not 0 < level < 0.5:
        raise RowsError(f"level is {level}; give the probability that the interval misses, in (0, 0.5), say 0.05")
    error, reach, count = math.nan, math.nan, units(moments)
    if count > 1:
        error = math.sqrt(squared_influence(moments, gradient) * count / (count - 1))
        reach = error * interval.half_width(count, level)
    return Estimate(
        value=value,
        standard_error=error,
        lower=value - reach,
        upper=value + reach,
        interval=interval.kind,
        level=level,
        n=int(moments.unit_rows + moments.alone_rows),
        n_units=count,
        effective_sample_size=math.nan if weights is None else weights.effective_sample_size,
        largest_weight=math.nan if weights is None else weights.largest,
        mean_weight=math.nan if weights is None else weights.mean,
        reasons=doubts,
    )


def _weights(moments: Moments, policy: int) -> SlotWeights | None:
    """Weights of the slot that decides; None where the estimator uses none or there are no rows."""
    slots = slot_weights(moments, policy)
    deciding = [slot for slot in slots if slot.carries]
    return min(deciding, key=lambda slot: (slot.effective_sample_size, slot.slot)) if deciding else None


def _doubts(moments: Moments, policy: int) -> tuple[str, ...]:
    rows, weights = int(moments.unit_rows + moments.alone_rows), _weights(moments, policy)
    if rows == 0:
        return ("no rows: nothing was observed",)
    doubts = ["all rows are of one unit: the error cannot be known"] if units(moments) == 1 else []
    if weights is None:
        return tuple(doubts)
    if weights.square == 0:
        return (*doubts, "every weight is 0: the target policy never takes a logged action, so the log has no evidence of it")
    if weights.effective_sample_size < DOUBTFUL_ESS:
        doubts.append(f"effective sample size {weights.effective_sample_size:.1f} of {rows} rows is below {DOUBTFUL_ESS:.0f}")
    if weights.largest > DOUBTFUL_SHARE * weights.mean * rows:
        doubts.append(f"one row (weight {weights.largest:.4g}) has {weights.largest / (weights.mean * rows):.0%} of all weight")
    if abs(weights.mean_z) > DOUBTFUL_Z:
        doubts.append(f"mean weight {weights.mean:.4g} is {abs(weights.mean_z):.1f} standard errors from 1: propensities or support fail")
    return tuple(doubts)
