"""An estimate with its error and its reasons for doubt, from moments. Pure."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from ope.diagnostics import SlotWeights, slot_weights
from ope.errors import RowsError
from ope.intervals import Evidence, Interval
from ope.moments import DENOMINATOR, NUMERATOR, WEIGHTS, Moments, squared_influence, totals, units
from ope.rows import Floats

__all__ = ["DOUBTFUL_ESS", "Estimate", "contrast_of", "difference_of", "estimate_of", "values_and_gradients"]

# Below this many effective rows a normal approximation of a weighted mean is poor: the worst case of the coverage studies that we keep.
DOUBTFUL_ESS = 100.0
# One row with more than this share of all weight can move the value by as much.
DOUBTFUL_SHARE = 0.05
# A mean weight this many standard errors from 1 happens by chance once in 10,000.
DOUBTFUL_Z = 3.89


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, its error, and why one might doubt it. What could not be had is NaN, and the reasons say why."""

    # In the metric's unit, a mean per `denominator`.
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
    # What must hold for the value to be right.
    assumption: str = ""
    # A number that was chosen on these rows, and how; empty where none was.
    choice: str = ""
    # What the value is a mean over: decisions as logged (intent to treat), or impressions really shown.
    denominator: str = "decision"


def estimate_of(
    moments: Moments,
    *,
    policy: int = 0,
    level: float,
    interval: Interval,
    doubts: tuple[str, ...] = (),
    assumption: str = "",
    choice: str = "",
) -> Estimate:
    """The estimate of one policy of the moments; `doubts` stand at the end of its reasons. `level` in (0, 0.5)."""
    slots = moments.weight_square.shape[1]
    (value,), one = values_and_gradients(_totals(moments, policy)[None], slots=slots)
    gradient = np.zeros_like(moments.alone_mean)
    gradient[policy] = one[0]

    def statistic(resampled: Floats) -> Floats:
        return values_and_gradients(resampled[:, policy], slots=slots)[0]

    found = _with_error(moments, float(value), gradient, level, interval, _weights(moments, policy), statistic)
    return dataclasses.replace(found, reasons=_doubts(moments, policy) + doubts, assumption=assumption, choice=choice)


def difference_of(moments: Moments, *, level: float, interval: Interval) -> Estimate:
    """Value of policy 0 less value of policy 1 on the same rows; exactly 0 with error 0 for twins. `level` in (0, 0.5)."""
    found = contrast_of(moments, signs=(1.0, -1.0), level=level, interval=interval.difference or interval)
    doubts = tuple(f"{name}: {doubt}" for p, name in enumerate(("challenger", "champion")) for doubt in _doubts(moments, p))
    return dataclasses.replace(found, reasons=doubts)


def contrast_of(moments: Moments, *, signs: Sequence[float], level: float, interval: Interval) -> Estimate:
    """Sum over the policies of sign x value on the same rows, with the error of that sum; its weights are those of policy 0."""
    slots, policies = moments.weight_square.shape[1], range(len(signs))
    values, gradients = values_and_gradients(np.stack([_totals(moments, policy) for policy in policies]), slots=slots)

    def statistic(resampled: Floats) -> Floats:
        of_each = [sign * values_and_gradients(resampled[:, policy], slots=slots)[0] for policy, sign in enumerate(signs)]
        return np.asarray(sum(of_each))

    value, gradient = sum(sign * each for sign, each in zip(signs, values, strict=True)), np.asarray(signs)[:, None] * gradients
    return _with_error(moments, float(value), gradient, level, interval, _weights(moments, 0), statistic)


def values_and_gradients(total: Floats, *, slots: int) -> tuple[Floats, Floats]:
    """Values f64[B] of B sets of totals f64[B, C], and their gradients in them f64[B, C]; NaN where there is no evidence.

    The value is numerator / denominator, plus normalised_l / (denominator + deviation_l) for each slot l that has one.
    """
    gradient = np.zeros_like(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total[:, NUMERATOR] / total[:, DENOMINATOR]
        gradient[:, NUMERATOR], gradient[:, DENOMINATOR] = 1 / total[:, DENOMINATOR], -value / total[:, DENOMINATOR]
        for slot in range(slots if total.shape[1] > WEIGHTS + slots else 0):
            weight = total[:, DENOMINATOR] + total[:, WEIGHTS + slot]
            part = total[:, WEIGHTS + slots + slot] / weight
            value = value + part
            gradient[:, WEIGHTS + slots + slot] = 1 / weight
            gradient[:, WEIGHTS + slot] = -part / weight
            gradient[:, DENOMINATOR] -= part / weight
    known = np.isfinite(value)
    return np.where(known, value, np.nan), np.where(known[:, None], gradient, np.nan)


def _totals(moments: Moments, policy: int) -> Floats:
    """Totals of the policy, f64[C]; NaN where every weight is 0, for then the log has no evidence of it."""
    total: Floats = totals(moments)[policy]
    weightless = moments.weight_square.shape[1] > 0 and not moments.weight_square[policy].any()
    return np.full_like(total, math.nan) if weightless or units(moments) == 0 else total


def _with_error(
    moments: Moments,
    value: float,
    gradient: Floats,
    level: float,
    interval: Interval,
    weights: SlotWeights | None,
    statistic: Callable[[Floats], Floats],
) -> Estimate:
    if not 0 < level < 0.5:
        raise RowsError(f"level is {level}; give the probability that the interval misses, in (0, 0.5), say 0.05")
    error, lower, upper, count = math.nan, math.nan, math.nan, units(moments)
    if count > 1 and math.isfinite(value):
        error = math.sqrt(squared_influence(moments, gradient) * count / (count - 1))
        lower, upper = _ends(moments, value, gradient, error, level, interval, statistic)
    return Estimate(
        value=value,
        standard_error=error,
        lower=lower,
        upper=upper,
        interval=interval.kind,
        level=level,
        n=int(moments.unit_rows + moments.alone_rows),
        n_units=count,
        effective_sample_size=math.nan if weights is None else weights.effective_sample_size,
        largest_weight=math.nan if weights is None else weights.largest,
        mean_weight=math.nan if weights is None else weights.mean,
        reasons=(),
    )


def _ends(
    moments: Moments,
    value: float,
    gradient: Floats,
    error: float,
    level: float,
    interval: Interval,
    statistic: Callable[[Floats], Floats],
) -> tuple[float, float]:
    count = units(moments)
    if interval.ends is None:
        reach = error * interval.half_width(count, level) + interval.beyond(count, level)
        return value - reach, value + reach
    if moments.alone_rows:
        raise RowsError(f"interval {interval.kind!r} needs rows kept by unit; give each row a unit, or deal them out with `ope.rows.dealt`")
    influence = (moments.unit_total * gradient).sum(axis=(1, 2))
    return interval.ends(Evidence(value, error, influence, moments.unit, moments.unit_total, statistic), level)


def _weights(moments: Moments, policy: int) -> SlotWeights | None:
    """Weights of the slot that decides; None where the estimator uses none or there are no rows."""
    slots = slot_weights(moments, policy)
    deciding = [slot for slot in slots if slot.carries]
    return min(deciding, key=lambda slot: (slot.effective_sample_size, slot.slot)) if deciding else None


def _doubts(moments: Moments, policy: int) -> tuple[str, ...]:
    weights = _weights(moments, policy)
    rows = int(moments.unit_rows + moments.alone_rows)
    if rows == 0:
        return ("no rows: nothing was observed",)
    doubts = ["all rows are of one unit: the error cannot be known"] if units(moments) == 1 else []
    if weights is None:
        return tuple(doubts)
    if weights.square == 0:
        return (*doubts, "every weight is 0: the target policy never takes a logged action, so the log has no evidence of it")
    if not totals(moments)[policy, DENOMINATOR]:
        doubts.append("nothing that the target policy takes was seen, so a mean per impression has no evidence")
    if weights.effective_sample_size < DOUBTFUL_ESS:
        doubts.append(f"effective sample size {weights.effective_sample_size:.1f} of {rows} rows is below {DOUBTFUL_ESS:.0f}")
    if weights.largest > DOUBTFUL_SHARE * weights.mean * rows:
        doubts.append(f"one row (weight {weights.largest:.4g}) has {weights.largest / (weights.mean * rows):.0%} of all weight")
    if abs(weights.mean_z) > DOUBTFUL_Z:
        doubts.append(f"mean weight {weights.mean:.4g} is {abs(weights.mean_z):.1f} standard errors from 1: propensities or support fail")
    return tuple(doubts)
