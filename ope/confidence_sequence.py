"""A confidence sequence for bounded contributions that holds from the first row on: no large sample is asked for. Pure.

For contributions x_t in [0, 1] in the order in which they came, with predictable weights lambda_t (Waudby-Smith and Ramdas, "Estimating
means of bounded random variables by betting", 2024, theorem 2),

    centre_t = sum lambda x / sum lambda,   half width_t = (log(2 / alpha) + sum 4 (x_s - mean_{s-1})^2 psi(lambda_s)) / sum lambda
    psi(l) = (-log(1 - l) - l) / 4,         lambda_t = min(1/2, sqrt(2 log(2 / alpha) / (variance_{t-1} t log(1 + t))))

holds at every t at once with probability 1 - alpha. A state is merged with the rows that FOLLOW it: blocks are adjacent and in order.
Independent units: where a unit has several rows, give one contribution a unit, when it is complete.
"""

import math
from typing import NamedTuple

import numpy as np

from ope.errors import RowsError
from ope.rows import Floats

__all__ = ["Sequence", "begin", "ends", "extend"]

_LARGEST_BET = 0.5


class Sequence(NamedTuple):
    """What is kept of all contributions so far."""

    # Contributions lie in [low, high], in the metric's unit; the interval misses, ever, with probability level.
    low: float
    high: float
    level: float
    # Contributions, their sum, and sum of squared distances from the running mean; scaled to [0, 1].
    seen: int = 0
    total: float = 0.0
    squares: float = 0.0
    # Sums of lambda, of lambda x, and of 4 (x - mean)^2 psi(lambda).
    bet: float = 0.0
    bet_total: float = 0.0
    price: float = 0.0


def begin(*, low: float, high: float, level: float) -> Sequence:
    """The sequence before any contribution. A paired difference of two that lie in [a, b] lies in [a - b, b - a].

    Raises RowsError for bounds or a level that make no sense.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RowsError(
            f"bounds are [{low}, {high}]; give finite ones, low < high: contributions without bounds need the asymptotic sequence"
        )
    if not 0 < level < 0.5:
        raise RowsError(f"level is {level}; give the probability that the sequence ever misses, in (0, 0.5), say 0.05")
    return Sequence(low, high, level)


def extend(state: Sequence, contributions: Floats) -> Sequence:
    """The sequence after the next contributions f64[m], in the order in which they came. Raises RowsError for one out of bounds."""
    outside = ~((contributions >= state.low) & (contributions <= state.high))
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise RowsError(
            f"contribution {state.seen + at} is {contributions[at]}; it must lie in the span [{state.low}, {state.high}]: widen the span"
        )
    x = (contributions - state.low) / (state.high - state.low)
    time = state.seen + 1 + np.arange(len(x))
    mean = (0.5 + state.total + np.cumsum(x)) / (time + 1)
    mean_before = (0.5 + state.total + np.cumsum(x) - x) / time
    squared = (x - mean) ** 2
    variance_before = (0.25 + state.squares + np.cumsum(squared) - squared) / time
    bet = np.minimum(_LARGEST_BET, np.sqrt(2 * math.log(2 / state.level) / (variance_before * time * np.log1p(time))))
    price = (x - mean_before) ** 2 * (-np.log1p(-bet) - bet)
    return state._replace(
        seen=state.seen + len(x),
        total=state.total + float(x.sum()),
        squares=state.squares + float(squared.sum()),
        bet=state.bet + float(bet.sum()),
        bet_total=state.bet_total + float((bet * x).sum()),
        price=state.price + float(price.sum()),
    )


def ends(state: Sequence) -> tuple[float, float]:
    """Both ends now, in the metric's unit; all that the bounds allow before any contribution."""
    if not state.seen:
        return state.low, state.high
    centre, half = state.bet_total / state.bet, (math.log(2 / state.level) + state.price) / state.bet
    lower, upper = (state.low + (state.high - state.low) * min(max(at, 0.0), 1.0) for at in (centre - half, centre + half))
    return lower, upper
