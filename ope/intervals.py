"""Intervals around an estimate, from its standard error. Each end is missed with probability at most level / 2.

The lower end at `level` is therefore a one-sided lower bound at level / 2, which is how the gate uses it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy import stats

__all__ = ["STUDENT_T", "Interval", "sequential"]


class Interval(NamedTuple):
    """A kind of interval: its name, and `half_width(units, level)` in standard errors (units: independent units seen, >= 2)."""

    kind: str
    half_width: Callable[[int, float], float]


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

    return Interval("asymptotic confidence sequence", half_width)
