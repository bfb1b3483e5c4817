"""Intervals around an estimate, from its standard error. Each end is missed with probability at most level / 2.

The lower end at `level` is therefore a one-sided lower bound at level / 2, which is how the gate uses it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from ope import confidence_sequence
from ope.rows import Floats, Keys

__all__ = ["STUDENT_T", "Evidence", "Interval", "empirical_bernstein", "predictable_mixture", "sequential"]

_ROUNDING = 1e-9


class Evidence(NamedTuple):
    """What an interval that looks at every unit is made of."""

    value: float
    standard_error: float
    # How each unit moves the value, f64[u]: the sum is 0 and the sum of squares is about the squared standard error.
    influence: Floats
    # Keys of the units, u64[u], and their totals, f64[u, P, C].
    unit: Keys
    unit_total: Floats
    # Totals f64[B, P, C] of B resampled logs -> their values, f64[B].
    statistic: Callable[[Floats], Floats]


def _nothing_beyond(units: int, level: float) -> float:
    return 0.0


class Interval(NamedTuple):
    """A kind of interval: its name, and `half_width(units, level)` in standard errors (units: independent units seen, >= 2)."""

    kind: str
    half_width: Callable[[int, float], float]
    # (units, level) -> what is added to that, in the metric's unit.
    beyond: Callable[[int, float], float] = _nothing_beyond
    # (evidence, level) -> both ends, for kinds that are no multiple of the standard error; rows must be kept by unit then.
    ends: Callable[[Evidence, float], tuple[float, float]] | None = None
    # It holds at every look at once, and is a multiple of the standard error.
    at_every_look: bool = False
    # The kind for a paired difference, where it is another: contributions of a difference have another span.
    difference: "Interval | None" = None
    # Rows without a unit are kept one by one, in their order, instead of being dealt into groups: memory grows with rows.
    by_row: bool = False


# Student's t with (units - 1) degrees of freedom: right for ONE look, at a number of rows that was fixed before.
STUDENT_T = Interval("student-t", lambda units, level: float(stats.t.isf(level / 2, units - 1)))


def sequential(*, tuned_for: int) -> Interval:
    """Asymptotic confidence sequence: holds at every look at once, from the first on.

    With t units, standard error s and alpha = level / 2, each side reaches s times

        sqrt( 2 (t rho^2 + 1) / (t rho^2) * log(1 + sqrt(t rho^2 + 1) / (2 alpha)) )

    (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", 2024,
    the one-sided boundary). rho makes the sequence narrowest at `tuned_for` units, >= 1 (their equation for the best rho).
    """

    def half_width(units: int, level: float) -> float:
        rho2 = (-2 * math.log(level) + math.log(-2 * math.log(level) + 1)) / tuned_for
        spread = units * rho2 + 1
        return math.sqrt(2 * spread / (units * rho2) * math.log1p(math.sqrt(spread) / level))

    return Interval("asymptotic confidence sequence", half_width, at_every_look=True)


def empirical_bernstein(*, low: float, high: float) -> Interval:
    """Holds at any number of units, for contributions that lie in [low, high], in the metric's unit.

    With s the standard error of n units and delta = level / 2, each side reaches

        s sqrt(2 log(2 / delta)) + 7 (high - low) log(2 / delta) / (3 (n - 1))

    (Maurer and Pontil, "Empirical Bernstein bounds and sample-variance penalization", 2009, theorem 4). A contribution is what one
    unit adds to the value, times the number of units: for rows that are their own unit, w r of IPS lies in [0, largest w x largest r].
    It is exact for means (ips, dr and their tamed forms), and asymptotic where weights are normalised by themselves. A paired difference
    of two that lie in [low, high] lies in [low - high, high - low]. Raises RowsError for bounds that make no sense.
    """
    confidence_sequence.begin(low=low, high=high, level=0.05)
    return _bernstein(high - low)._replace(difference=_bernstein(2 * (high - low)))


def _bernstein(span: float) -> Interval:
    return Interval(
        "empirical Bernstein",
        lambda units, level: math.sqrt(2 * math.log(4 / level)),
        lambda units, level: 7 * span * math.log(4 / level) / (3 * (units - 1)),
    )


def predictable_mixture(*, low: float, high: float) -> Interval:
    """Predictable-mixture empirical Bernstein (`ope.confidence_sequence`), for contributions as in `empirical_bernstein`.

    It holds at any number of rows, and at every look if the looks are at growing logs: rows that are their own unit in the order of the
    log, named units in the order of their keys, which says nothing of their rewards. Raises RowsError for bounds that make no sense,
    and, when it is asked, for a contribution outside them.
    """
    confidence_sequence.begin(low=low, high=high, level=0.05)
    return _mixture(low, high)._replace(difference=_mixture(low - high, high - low))


def _mixture(low: float, high: float) -> Interval:
    def ends(evidence: Evidence, level: float) -> tuple[float, float]:
        contributions = evidence.value + len(evidence.influence) * evidence.influence
        inside = np.clip(contributions, low, high)
        # What is outside by rounding is inside.
        kept = np.where(np.abs(contributions - inside) <= _ROUNDING * (high - low), inside, contributions)
        return confidence_sequence.ends(confidence_sequence.extend(confidence_sequence.begin(low=low, high=high, level=level), kept))

    return Interval("predictable-mixture empirical Bernstein", lambda units, level: math.nan, ends=ends, by_row=True)
