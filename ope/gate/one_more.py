"""What the rows would say with one more row, the worst or the best that could have come. Pure.

The gate's bound believes the variance that the rows show. Where rewards are rare, or the logger has come to take an action seldom, the
rows that would show more of it are yet to come, and whoever looks early is too sure: a few rows with large weights turn the difference.
So each end of the interval is taken as if one more unit had come, with the weights of a row that did, the smallest or largest reward of
each slot, and of these rows the one that moves the difference furthest against that end. Among n rows of a bounded kind it counts for
little; where a single row could weigh as much as all others, nothing is promoted. `ope.gate.coverage` simulates it.
"""

from typing import NamedTuple

import numpy as np

from ope.estimate import values_and_gradients
from ope.estimators import estimator
from ope.moments import DENOMINATOR, NUMERATOR, WEIGHTS, Moments, Terms, merge, totals
from ope.paired import paired
from ope.rows import Batch, Floats

__all__ = ["OneMore", "one_more"]


class OneMore(NamedTuple):
    """Moments of a challenger and another policy with one more row."""

    worst: Moments
    best: Moments


def one_more(name: str, challenger: Batch, other: Batch, moments: Moments) -> OneMore:
    """The moments of the named estimator over these rows, at least one, with the row that lowers, and that raises, the difference most."""
    assert challenger.weight is not None and other.weight is not None and challenger.unit is not None
    low, high = challenger.reward.min(axis=0), challenger.reward.max(axis=0)
    gains = challenger.weight > other.weight
    unit = np.setdiff1d(np.arange(len(challenger.unit) + 1, dtype=np.uint64), challenger.unit)[:1]
    found = []
    for sign, reward in ((1, np.where(gains, low, high)), (-1, np.where(gains, high, low))):
        batches = [batch._replace(reward=reward) for batch in (challenger, other)]
        at = int(np.argmin(sign * _influence([estimator(name).terms(batch) for batch in batches], moments)))
        row = [Batch(batch.reward[at : at + 1], batch.weight[at : at + 1], unit=unit) for batch in batches if batch.weight is not None]
        found.append(merge(moments, paired(estimator(name)).moments(*row)))
    return OneMore(*found)


def _influence(terms: list[Terms], moments: Moments) -> Floats:
    """How each row, were it added, would move the difference, f64[n]."""
    slots = moments.weight_square.shape[1]
    _, gradients = values_and_gradients(totals(moments), slots=slots)
    moved = np.zeros(len(terms[0].numerator))
    for sign, each, gradient in zip((1, -1), terms, np.nan_to_num(gradients), strict=True):
        moved += sign * (each.numerator * gradient[NUMERATOR] + each.denominator * gradient[DENOMINATOR])
        moved += sign * ((each.weight - 1) @ gradient[WEIGHTS : WEIGHTS + slots])
        if each.normalised is not None:
            moved += sign * (each.normalised @ gradient[WEIGHTS + slots :])
    return moved
