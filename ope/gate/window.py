"""A confidence sequence that is no wider than its declared window asks for. Pure.

A sequence that must hold for ever is crossed with far less than its level between the first look and the last one that the config
allows: by 1.7 % where 5 % are declared and the last look has 30 times the rows of the first. Here the same curve is drawn at a higher
nominal level, such that the probability of crossing it ANYWHERE in the window, at however many looks, is the declared one.

By the invariance principle that the asymptotic sequence rests on too, the standardised difference at t rows is a Brownian motion over its
own spread, B(t) / sqrt(t): in s = log t a stationary Ornstein-Uhlenbeck process, whose crossing probability follows by integrating its
density from step to step (Armitage, McPherson and Rowe, 1969), with the barrier lowered for what happens between two steps
(Chernoff, 1965; Siegmund, 1979: 0.5826 standard deviations of a step).
"""

import functools
import math

import numpy as np

from ope.intervals import Interval, sequential

__all__ = ["KIND", "crossing", "windowed"]

KIND = "asymptotic confidence sequence over the declared window"
_STEPS, _POINTS, _REACH = 160, 420, 6.0
_BETWEEN_STEPS = 0.5826
_BISECTIONS = 22
# The nominal level of the curve, one-sided, is sought up to here; its curve is then far below any that is used.
_LARGEST = 0.45


def windowed(*, first: int, last: int, tuned_for: int) -> Interval:
    """The sequence for looks between `first` and `last` rows, narrowest near `tuned_for`. `half_width(rows, level)`, level two-sided."""

    def half_width(rows: int, level: float) -> float:
        nominal = 2 * _nominal(level / 2, first, last, tuned_for)
        return sequential(tuned_for=tuned_for).half_width(min(max(rows, first), last), nominal)

    return Interval(KIND, half_width)


@functools.lru_cache(maxsize=256)
def _nominal(level: float, first: int, last: int, tuned_for: int) -> float:
    """The one-sided nominal level whose curve is crossed with probability `level` between `first` and `last` rows."""
    low, high = level, _LARGEST
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if crossing(middle, first=first, last=last, tuned_for=tuned_for) <= level else (low, middle)
    return low


def crossing(nominal: float, *, first: int, last: int, tuned_for: int) -> float:
    """Probability that the curve at a one-sided nominal level is crossed anywhere between `first` and `last` rows."""
    step = math.log(max(last / first, 1 + 1e-9)) / _STEPS
    curve = sequential(tuned_for=tuned_for)
    barriers = [curve.half_width(max(round(first * math.exp(k * step)), 1), 2 * nominal) for k in range(_STEPS + 1)]
    points, kernel = _kernel(step)
    density = np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi) * (points[1] - points[0])
    lowered = _BETWEEN_STEPS * math.sqrt(step)
    below = density * (points < barriers[0])
    for barrier in barriers[1:]:
        below = (kernel @ below) * (points < barrier - lowered)
    return float(1 - below.sum())


@functools.lru_cache(maxsize=8)
def _kernel(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Grid of the process, and the probabilities of its moves in one step [to, from]; each column sums to one."""
    points = np.linspace(-_REACH, _REACH, _POINTS)
    spread = math.sqrt(-math.expm1(-step))
    moves = np.exp(-(((points[:, None] - math.exp(-step / 2) * points[None]) / spread) ** 2) / 2)
    return points, moves / moves.sum(axis=0)
