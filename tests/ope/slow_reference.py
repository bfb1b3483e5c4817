"""Slow, obvious float64 estimators, one row at a time: what the mergeable ones must agree with."""

import math

import numpy as np

from ope.rows import Batch

Point = tuple[float, float]


def numbers(name: str, batch: Batch, row: int) -> Point:
    """Numerator and denominator of one row."""
    reward, slots = batch.reward[row], batch.reward.shape[1]
    weight = None if batch.weight is None else batch.weight[row]
    if name == "dm":
        return float(batch.v_target[row, 0]), 1.0
    if name == "ips":
        return float(weight[0] * reward[0]), 1.0
    if name == "snips":
        return float(weight[0] * reward[0]), float(weight[0])
    if name == "dr":
        return float(batch.v_target[row, 0] + weight[0] * (reward[0] - batch.q_logged[row, 0])), 1.0
    if name == "sips":
        return float(weight[slots - 1] * sum(reward)), 1.0
    if name == "rips":
        return float(sum(weight[slot] * reward[slot] for slot in range(slots))), 1.0
    raise KeyError(name)


def value_and_error(name: str, batch: Batch) -> Point:
    """The estimate and its standard error, clustered by unit."""
    points = [numbers(name, batch, row) for row in range(len(batch.reward))]
    top, bottom = math.fsum(a for a, _ in points), math.fsum(b for _, b in points)
    value = top / bottom
    return value, _error([(a - value * b) / bottom for a, b in points], batch)


def difference_and_error(name: str, challenger: Batch, champion: Batch) -> Point:
    """The paired difference and its standard error, clustered by unit."""
    sides = []
    for batch in (challenger, champion):
        points = [numbers(name, batch, row) for row in range(len(batch.reward))]
        top, bottom = math.fsum(a for a, _ in points), math.fsum(b for _, b in points)
        sides.append((top / bottom, [(a - top / bottom * b) / bottom for a, b in points]))
    (first, mine), (second, theirs) = sides
    return first - second, _error([a - b for a, b in zip(mine, theirs, strict=True)], challenger)


def _error(influence: list[float], batch: Batch) -> float:
    keys = range(len(influence)) if batch.unit is None else batch.unit.tolist()
    by_unit: dict[int, float] = {}
    for key, part in zip(keys, influence, strict=True):
        by_unit[key] = by_unit.get(key, 0.0) + part
    count = len(by_unit)
    return math.sqrt(math.fsum(part**2 for part in by_unit.values()) * count / (count - 1))


def example(*, seed: int, rows: int, slots: int, units: int | None) -> Batch:
    """Random rows with everything that any estimator asks for."""
    rng = np.random.default_rng(seed)
    shape = (rows, slots)
    weight = np.cumprod(rng.gamma(2.0, 0.5, size=shape), axis=1) * (rng.random(shape) < 0.9)
    unit = None if units is None else rng.integers(0, units, rows).astype(np.uint64)
    return Batch(rng.normal(0.3, 1.0, shape), weight, rng.normal(0.3, 0.2, shape), rng.normal(0.4, 0.2, shape), unit)
