"""Slow, obvious float64 estimators, one row at a time: what the mergeable ones must agree with."""

import math

import numpy as np

from ope.rows import Batch

Point = tuple[float, float]


WEIGHT_OF = {"mips": "embedding_weight", "msnips": "embedding_weight", "mdr": "embedding_weight"}
WEIGHT_OF |= {
    f"{prefix}{name}": kind
    for prefix, kind in (("balanced_", "mixture_weight"), ("kernel_", "kernel_weight"))
    for name in ("ips", "snips", "dr")
}
WEIGHT_OF |= dict.fromkeys(("iips", "sniips"), "marginal_weight") | {"pseudo_inverse": "slate_weight"}
# The numbers that the families' own names stand for.
TAMED = {
    "clipped": lambda w: min(w, 10.0),
    "sg": lambda w: w / (0.9 + 0.1 * w),
    "switch": lambda w: w if w <= 10.0 else 0.0,
    "dros": lambda w: 100.0 * w / (w * w + 100.0),
}


def ratios(name: str, batch: Batch, row: int) -> list[Point]:
    """What one row adds to each of the ratios that the value is a sum of: numerator and denominator."""
    reward, slots = [float(r) for r in batch.reward[row]], batch.reward.shape[1]
    kind = WEIGHT_OF.get(name, "weight")
    weight = [float(w) for w in getattr(batch, kind)[row]]
    q, v = ([] if (model := getattr(batch, part)) is None else [float(x) for x in model[row]] for part in ("q_logged", "v_target"))
    if name in ("sips", "snsips", "pseudo_inverse"):
        return [(weight[-1] * sum(reward), weight[-1] if name == "snsips" else 1.0)]
    if name in ("rips", "iips"):
        return [(sum(w * r for w, r in zip(weight, reward, strict=True)), 1.0)]
    if name in ("snrips", "sniips"):
        return [(w * r, w) for w, r in zip(weight, reward, strict=True)]
    if name == "cascade_dr":
        before = [1.0, *weight[:-1]]
        return [(sum(weight[k] * (reward[k] - q[k]) + before[k] * v[k] for k in range(slots)), 1.0)]
    tamed = TAMED.get(name.split("_")[0], lambda w: w)(weight[0])
    if name == "dm":
        return [(v[0], 1.0)]
    if name == "sndr":
        return [(v[0], 1.0), (weight[0] * (reward[0] - q[0]), weight[0])]
    if name.endswith("snips"):
        return [(weight[0] * reward[0], weight[0])]
    if name.endswith("dr") or name == "dros":
        return [(v[0] + tamed * (reward[0] - q[0]), 1.0)]
    if name.endswith("ips"):
        return [(tamed * reward[0], 1.0)]
    raise KeyError(name)


def value_and_influence(name: str, batch: Batch) -> tuple[float, list[float]]:
    """The estimate, and by how much each row moves it."""
    rows = [ratios(name, batch, row) for row in range(len(batch.reward))]
    value, influence = 0.0, [0.0] * len(rows)
    for part in range(len(rows[0])):
        top, bottom = math.fsum(row[part][0] for row in rows), math.fsum(row[part][1] for row in rows)
        value += top / bottom
        influence = [old + (row[part][0] - top / bottom * row[part][1]) / bottom for old, row in zip(influence, rows, strict=True)]
    return value, influence


def value_and_error(name: str, batch: Batch) -> Point:
    """The estimate and its standard error, clustered by unit."""
    value, influence = value_and_influence(name, batch)
    return value, _error(influence, batch)


def difference_and_error(name: str, challenger: Batch, champion: Batch) -> Point:
    """The paired difference and its standard error, clustered by unit."""
    (first, mine), (second, theirs) = (value_and_influence(name, batch) for batch in (challenger, champion))
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
    batch = Batch(rng.normal(0.3, 1.0, shape), weight, rng.normal(0.3, 0.2, shape), rng.normal(0.4, 0.2, shape), unit)
    others = {name: rng.gamma(2.0, 0.5, size=(rows, 1)) for name in ("slate_weight", "embedding_weight", "mixture_weight", "kernel_weight")}
    return batch._replace(marginal_weight=rng.gamma(2.0, 0.5, size=shape), **others)


WEIGHTS = ("weight", "marginal_weight", "slate_weight", "embedding_weight", "mixture_weight", "kernel_weight")


def with_weights_of(batch: Batch, number: float) -> Batch:
    """The same rows with every weight of every kind equal to `number`."""
    return batch._replace(**{name: np.full_like(getattr(batch, name), number) for name in WEIGHTS})
