"""Mergeable moments: what every estimator of the catalog keeps of its rows. Pure, float64.

Each row gives, for each of P policies (1, or 2 for a paired difference), C = 2 + L numbers: a numerator, a denominator, and the
deviation of each slot's weight from 1; estimators that divide a slot by the mean of its own weight add a number a slot, C = 2 + 2 L.
The value is a sum of ratios of totals, and everything about its error is a quadratic form of the totals of each UNIT. Rows that name a
unit are kept by unit (memory grows with units); rows that are their own unit are kept as count, mean and scatter, merged as in Chan,
Golub and LeVeque (1979).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError
from ope.rows import Floats, Keys

__all__ = ["Moments", "Terms", "gather", "merge", "ones", "squared_influence", "totals", "units"]

# Places of a row's numbers along the last axis; the weights' deviations follow.
NUMERATOR, DENOMINATOR, WEIGHTS = 0, 1, 2


class Moments(NamedTuple):
    """Moments of a set of rows; a tree of float64, int64 and uint64 arrays."""

    # Keys of the named units, sorted, u64[u], and their totals, f64[u, P, C].
    unit: Keys
    unit_total: Floats
    # Rows of named units, and rows that are their own unit, i64 scalars.
    unit_rows: np.int64
    alone_rows: np.int64
    # Mean f64[P, C] and scatter f64[P, C, P, C] (sum of outer products of deviations) of the latter.
    alone_mean: Floats
    alone_scatter: Floats
    # By policy and slot, f64[P, L]: sum of squared weights, largest weight, and the slot's part of the numerator.
    weight_square: Floats
    weight_largest: Floats
    slot_value: Floats


class Terms(NamedTuple):
    """What an estimator makes of n rows under one policy; L = 0 where it uses no weights."""

    # The value is sum(numerator) / sum(denominator), f64[n] each, plus what is `normalised`.
    numerator: Floats
    denominator: Floats
    # Weights whose mean is 1 if propensities and support are right, and the slot's part of the numerator, f64[n, L] each.
    weight: Floats
    slot_value: Floats
    # Adds sum(normalised[:, l]) / sum(weight[:, l]) for each slot, f64[n, L]; where it is given, denominator is 1.
    normalised: Floats | None = None


@lru_cache(maxsize=4)
def ones(rows: int) -> Floats:
    """The denominator of a mean: one array for all who ask, so that it is added up once (`ope.panel`). Not to be written to."""
    column = np.ones(rows)
    column.setflags(write=False)
    return column


def gather(policies: Sequence[Terms], *, unit: Keys | None) -> Moments:
    """Moments of the terms of P policies over the same n rows; `unit` u64[n], or None where every row is a unit of its own."""
    weight = np.stack([terms.weight for terms in policies], axis=1)
    ratio = np.stack([np.stack([terms.numerator, terms.denominator], axis=1) for terms in policies], axis=1)
    normalised = [terms.normalised for terms in policies if terms.normalised is not None]
    numbers = np.concatenate([ratio, weight - 1.0, *([np.stack(normalised, axis=1)] if normalised else [])], axis=2)
    return Moments(
        *_by_unit(numbers, unit),
        *_alone(numbers if unit is None else numbers[:0]),
        weight_square=_sum_rows(weight**2),
        weight_largest=weight.max(axis=0, initial=0.0),
        slot_value=_sum_rows(np.stack([terms.slot_value for terms in policies], axis=1)),
    )


def merge(left: Moments, right: Moments) -> Moments:
    """Moments of the rows of both. Commutes and associates to rounding.

    Slates of different length meet at the longer. Raises RowsError if one is of a pair of policies and the other of one.
    """
    if left.alone_mean.shape[0] != right.alone_mean.shape[0]:
        raise RowsError(f"moments of {left.alone_mean.shape[0]} and {right.alone_mean.shape[0]} policies do not merge; merge equals")
    slots = max(left.weight_square.shape[1], right.weight_square.shape[1])
    left, right = _widen(left, slots), _widen(right, slots)
    unit, place = np.unique(np.concatenate([left.unit, right.unit]), return_inverse=True)
    return Moments(
        unit,
        _group(np.concatenate([left.unit_total, right.unit_total]), place, len(unit)),
        np.int64(left.unit_rows + right.unit_rows),
        *_merge_alone(left, right),
        weight_square=left.weight_square + right.weight_square,
        weight_largest=np.maximum(left.weight_largest, right.weight_largest),
        slot_value=left.slot_value + right.slot_value,
    )


def units(moments: Moments) -> int:
    """Number of independent units."""
    return len(moments.unit) + int(moments.alone_rows)


def totals(moments: Moments) -> Floats:
    """Totals over all rows, f64[P, C]."""
    return _sum_rows(moments.unit_total) + moments.alone_rows * moments.alone_mean


def squared_influence(moments: Moments, gradient: Floats) -> float:
    """sum over units of (sum over policies p of gradient[p] . total of the unit under p)^2, for a gradient f64[P, C].

    Exactly 0 where the gradients of two policies are opposite and their rows the same: each product is formed in the same order.
    """
    by_policy = np.einsum("upc,pc->up", moments.unit_total, gradient)
    named = float((by_policy.sum(axis=1) ** 2).sum())
    policies = range(len(gradient))
    spread = np.zeros(())
    for p in policies:
        for q in policies:
            spread = spread + (gradient[p][:, None] * moments.alone_scatter[p, :, q] * gradient[q]).sum()
    level = (moments.alone_mean * gradient).sum(axis=1).sum()
    return named + float(spread) + float(moments.alone_rows * level**2)


def _by_unit(numbers: Floats, unit: Keys | None) -> tuple[Keys, Floats, np.int64]:
    if unit is None:
        return np.zeros(0, np.uint64), np.zeros((0, *numbers.shape[1:])), np.int64(0)
    keys, place = np.unique(unit, return_inverse=True)
    return keys, _group(numbers, place, len(keys)), np.int64(len(numbers))


def _group(numbers: Floats, place: npt.NDArray[np.intp], groups: int) -> Floats:
    grouped = [np.bincount(place, weights=column, minlength=groups) for column in _columns(numbers)]
    # Of no rows at all, bincount gives integers.
    return np.stack(grouped, axis=1).astype(np.float64).reshape(groups, *numbers.shape[1:])


def _alone(numbers: Floats) -> tuple[np.int64, Floats, Floats]:
    rows, shape = len(numbers), numbers.shape[1:]
    columns = _columns(numbers)
    mean = columns.sum(axis=1) / max(rows, 1)
    deviations = columns - mean[:, None]
    # One product at a time: a matrix product may add up equal columns in different orders, and twins must stay twins.
    scatter = np.stack([(deviations * deviation).sum(axis=1) for deviation in deviations])
    return np.int64(rows), mean.reshape(shape), scatter.reshape(*shape, *shape)


def _merge_alone(left: Moments, right: Moments) -> tuple[np.int64, Floats, Floats]:
    rows = left.alone_rows + right.alone_rows
    count = max(int(rows), 1)
    mean = (left.alone_rows * left.alone_mean + right.alone_rows * right.alone_mean) / count
    apart = left.alone_mean - right.alone_mean
    outer = apart[:, :, None, None] * apart[None, None] * (left.alone_rows * right.alone_rows / count)
    return np.int64(rows), mean, left.alone_scatter + right.alone_scatter + outer


def _widen(moments: Moments, slots: int) -> Moments:
    """The same moments with `slots` slots: the added ones are absent, so they repeat the last weight and have no value (see `rows`)."""
    had = moments.weight_square.shape[1]
    if had == slots:
        return moments
    slot, there = np.minimum(np.arange(slots), had - 1), np.arange(slots) < had
    number = np.concatenate([[NUMERATOR, DENOMINATOR], WEIGHTS + slot])
    kept = np.ones(len(number))
    if moments.alone_mean.shape[1] > WEIGHTS + had:
        number, kept = np.concatenate([number, WEIGHTS + had + slot]), np.concatenate([kept, there])
    return moments._replace(
        unit_total=moments.unit_total[:, :, number] * kept,
        alone_mean=moments.alone_mean[:, number] * kept,
        alone_scatter=moments.alone_scatter[:, number][..., number] * kept[:, None, None] * kept,
        weight_square=moments.weight_square[:, slot],
        weight_largest=moments.weight_largest[:, slot],
        slot_value=np.where(there, moments.slot_value[:, slot], 0.0),
    )


def _sum_rows(numbers: Floats) -> Floats:
    """Sum over the first axis, pairwise, so that 1e7 rows lose no digits."""
    total: Floats = _columns(numbers).sum(axis=1).reshape(numbers.shape[1:])
    return total


def _columns(numbers: Floats) -> Floats:
    """[n, ...] as contiguous columns, [product of the others, n]."""
    return np.ascontiguousarray(numbers.reshape(len(numbers), math.prod(numbers.shape[1:])).T)
