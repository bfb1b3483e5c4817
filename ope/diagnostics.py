"""What the weights say about the evidence, slot by slot: effective sample size, mean against 1, and which slots carry the value. Pure."""

import math
from typing import NamedTuple

import numpy as np

from ope.moments import WEIGHTS, Moments, squared_influence, totals

__all__ = ["VALUE_SHARE", "SlotWeights", "slot_weights"]

# The slots that together carry this share of the estimated value, largest first, must have the evidence; asking it of every slot
# would let a slot that hardly matters hold a better policy for ever.
VALUE_SHARE = 0.8


class SlotWeights(NamedTuple):
    """Weights of one slot under one policy."""

    # Index of the slot, 0 = top.
    slot: int
    # (sum w)^2 / sum w^2, in rows; 0 where every weight is 0.
    effective_sample_size: float
    largest: float
    mean: float
    # Sum of squared weights.
    square: float
    # (mean - 1) in standard errors, clustered by unit; 0 where all weights are 1.
    mean_z: float
    # The slot's part of the value, in the metric's unit per decision.
    value: float
    # One of the slots that together carry VALUE_SHARE of the value.
    carries: bool


def slot_weights(moments: Moments, policy: int, *, value_share: float = VALUE_SHARE) -> list[SlotWeights]:
    """Weights of each slot under one policy of the moments; none where there are no rows or no weights.

    `value_share`: share of the value, in (0, 1], that the slots marked as carrying have together.
    """
    rows = int(moments.unit_rows + moments.alone_rows)
    if rows == 0:
        return []
    value = moments.slot_value[policy] / rows
    carrying = _carrying(np.abs(value), value_share)
    return [_slot(moments, policy, slot, rows, float(value[slot]), slot in carrying) for slot in range(len(value))]


def _slot(moments: Moments, policy: int, slot: int, rows: int, value: float, carries: bool) -> SlotWeights:
    gradient = np.zeros_like(moments.alone_mean)
    gradient[policy, WEIGHTS + slot] = 1.0
    deviation = float(totals(moments)[policy, WEIGHTS + slot])
    error = math.sqrt(squared_influence(moments, gradient))
    square = float(moments.weight_square[policy, slot])
    return SlotWeights(
        slot=slot,
        effective_sample_size=(rows + deviation) ** 2 / square if square else 0.0,
        largest=float(moments.weight_largest[policy, slot]),
        mean=1 + deviation / rows,
        square=square,
        mean_z=deviation / error if error else 0.0,
        value=value,
        carries=carries,
    )


def _carrying(value: np.ndarray, share: float) -> set[int]:
    """The fewest slots, largest value first, that have `share` of the whole; all of them where nothing has value."""
    if not value.any():
        return set(range(len(value)))
    order = np.argsort(-value, kind="stable")
    enough = int(np.searchsorted(np.cumsum(value[order]), share * value.sum() * (1 - 1e-12))) + 1
    return set(order[:enough].tolist())
