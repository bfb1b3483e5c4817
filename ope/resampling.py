"""Intervals that look at every unit instead of trusting a standard error. Pure.

Both take units as independent, so they are clustered where rows name their unit. Rows without a unit are dealt into groups
(`ope.rows.dealt`): groups of independent rows are independent, and memory stays flat.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from ope.intervals import Evidence, Interval
from ope.rows import Floats, Keys

__all__ = ["EMPIRICAL_LIKELIHOOD", "poisson_bootstrap", "poisson_counts"]

# Replicates of which the counts stand in memory at once.
_BLOCK = 64
# Counts of a Poisson variable of mean 1 by 16 random bits: the count at the middle of each of 2^16 equal steps of probability.
_COUNT = stats.poisson.ppf((np.arange(1 << 16) + 0.5) / (1 << 16), 1.0).astype(np.uint8)


def poisson_bootstrap(*, replicates: int = 1000, seed: int = 0) -> Interval:
    """Percentiles of the value over logs in which each unit stands a Poisson(1) number of times.

    Unlike a resample of exactly n units, the counts of a unit follow from its key and the seed alone: however a log is cut, merged or
    ordered, the interval is the same (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams", 2012).
    """

    def ends(evidence: Evidence, level: float) -> tuple[float, float]:
        if not evidence.standard_error:
            return evidence.value, evidence.value
        values = _resampled(evidence, replicates, seed)
        low, high = np.nanquantile(values, [level / 2, 1 - level / 2])
        return float(low), float(high)

    return Interval(f"Poisson bootstrap, {replicates} replicates", _not_a_multiple, ends=ends)


def poisson_counts(unit: Keys, *, replicates: range, seed: int) -> Floats:
    """How often each unit u64[u] stands in each replicate, f64[B, u]: Poisson of mean 1, a function of (key, replicate, seed) alone."""
    salt = np.asarray([replicate + (seed << 32) for replicate in replicates], np.uint64)
    mixed = _mix(_mix(unit)[None, :] ^ _mix(salt)[:, None])
    return _COUNT[(mixed >> np.uint64(48)).astype(np.intp)].astype(np.float64)


def _resampled(evidence: Evidence, replicates: int, seed: int) -> Floats:
    units, policies, columns = evidence.unit_total.shape
    flat = np.ascontiguousarray(evidence.unit_total.reshape(units, policies * columns).T)
    values = []
    for start in range(0, replicates, _BLOCK):
        counts = poisson_counts(evidence.unit, replicates=range(start, min(start + _BLOCK, replicates)), seed=seed)
        # One column at a time: equal columns then give equal sums, so that twins stay twins.
        totals = np.stack([counts @ column for column in flat], axis=1)
        values.append(evidence.statistic(totals.reshape(-1, policies, columns)))
    return np.concatenate(values)


def _mix(bits: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every output bit depends on every input bit."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)), np.uint64)


def _empirical_likelihood(evidence: Evidence, level: float) -> tuple[float, float]:
    if not evidence.standard_error:
        return evidence.value, evidence.value
    pseudo = evidence.value + len(evidence.influence) * evidence.influence
    limit = float(stats.f.isf(level, 1, len(pseudo) - 1))

    def excess(centre: float) -> float:
        return _log_ratio(pseudo - centre) - limit

    lower, upper = (_crossing(excess, evidence.value, float(extreme)) for extreme in (pseudo.min(), pseudo.max()))
    return lower, upper


def _not_a_multiple(units: int, level: float) -> float:
    """These intervals are no multiple of the standard error."""
    return math.nan


# The values that a reweighing of the units could have, if it is not too unlikely (Owen, "Empirical likelihood", 2001, chapters 2 and 11),
# of the units' pseudo-values: value + n influence. F(1, n - 1) for the chi-squared limit. Never outside what the units themselves say.
EMPIRICAL_LIKELIHOOD = Interval("empirical likelihood", _not_a_multiple, ends=_empirical_likelihood)


def _crossing(excess: Callable[[float], float], inside: float, extreme: float) -> float:
    """Where `excess` changes sign between a point inside and the extreme; the extreme is never reached."""
    outside = inside + (extreme - inside) * (1 - 1e-6)
    if excess(outside) < 0:
        return extreme
    return float(optimize.brentq(excess, inside, outside, xtol=1e-12 * max(1.0, abs(inside)), rtol=1e-9))


def _log_ratio(apart: Floats) -> float:
    """-2 log of the likelihood ratio that the mean of `apart` is 0; 0 is inside their range."""
    lowest, highest, share = float(apart.min()), float(apart.max()), 1 / len(apart)
    if not lowest < 0 < highest:
        return 0.0 if lowest == highest == 0 else math.inf
    # A unit's share of the likelihood is at most 1, which bounds the multiplier.
    ends = (share - 1) / highest, (share - 1) / lowest
    multiplier = optimize.brentq(lambda at: float((apart / (1 + at * apart)).sum()), *ends, xtol=1e-14, rtol=1e-10)
    return 2 * float(np.log1p(multiplier * apart).sum())
