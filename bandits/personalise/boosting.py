"""Gradient boosting of small trees on binned features, in numpy: squared loss, early stopping on rows held out (Friedman 2001). Pure.

All trees are complete: node t has the children 2t + 1 and 2t + 2, so that a tree is three arrays (`feature`, `threshold`, `value`). A node
that is not split has the threshold infinity: every row goes left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Binned", "Trees", "binned", "boosted", "edges_of", "leaves", "predicted"]

# Quantile bins of a feature.
MOST_BINS = 32
# Places of the grid on which bins are looked up.
_GRID = 2_048
# Quantiles of so many rows are right to 0.2 % of the rows, a fifteenth of a bin.
_SAMPLED = 50_000
# Rows that are coded at once, so that what lies between stays in the cache.
_BLOCK = 1 << 15
# Codes of all features that are counted at once: fewer calls where rows are few, no large arrays where they are many.
_TOGETHER = 1 << 17
# A split that explains a smaller share of the squares than this is one of rounding errors.
_NOTHING = 1e-12


class Binned(NamedTuple):
    """`codes` u8[d, n]: bin of each feature; `edges`: of each feature, ascending: bin b is x <= edges[b]."""

    codes: np.ndarray
    edges: tuple[np.ndarray, ...]


class Trees(NamedTuple):
    """T trees of depth D: `feature` i32[T, 2^D - 1], `threshold` f64[T, 2^D - 1], `value` f64[T, 2^D]; their sum and `base` predict."""

    base: float
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray


def edges_of(x: np.ndarray, *, most: int = MOST_BINS) -> tuple[np.ndarray, ...]:
    """Edges between bins of each column of f64[n, d]: midpoints between values, or near quantiles where there are many."""
    sample = x[:: max(len(x) // _SAMPLED, 1)]
    return tuple(_edges(np.ascontiguousarray(column), most) for column in sample.T)


def binned(x: np.ndarray, edges: Sequence[np.ndarray]) -> Binned:
    """Rows f64[n, d] in the bins of `edges`."""
    codes = np.empty((x.shape[1], len(x)), np.uint8)
    grids = [_grid(each) for each in edges]
    for start in range(0, len(x), _BLOCK):
        block = np.ascontiguousarray(x[start : start + _BLOCK].T)
        for at, (grid, values) in enumerate(zip(grids, block, strict=True)):
            codes[at, start : start + _BLOCK] = _coded(grid, values)
    return Binned(codes, tuple(edges))


class _Grid(NamedTuple):
    """Even places over the edges: `first` i64[G + 1] a bin at or before that of each place; `bounded` the edges and infinity."""

    low: float
    step: float
    first: np.ndarray
    bounded: np.ndarray


def _grid(edges: np.ndarray) -> _Grid:
    if len(edges) < 2:
        return _Grid(0.0, 1.0, np.zeros(1, np.int64), np.append(edges, np.inf))
    low, step = float(edges[0]), float(edges[-1] - edges[0]) / _GRID
    # A place may be one too far by rounding, so begin one edge early.
    first = np.maximum(np.searchsorted(edges, low + step * np.arange(_GRID + 1), side="left") - 1, 0)
    return _Grid(low, step, first, np.append(edges, np.inf))


def _coded(grid: _Grid, values: np.ndarray) -> np.ndarray:
    """How many edges lie below each value: looked up, then moved on while an edge is passed (as `searchsorted`, faster)."""
    found = grid.first[np.clip((values - grid.low) / grid.step, 0, len(grid.first) - 1).astype(np.int32)]
    while np.any(passed := values > grid.bounded[found]):
        found += passed
    return found


def leaves(feature: np.ndarray, threshold: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The leaf of each row in one complete tree, i64[n]; rows f64[n, d]."""
    node = np.zeros(len(x), np.int64)
    rows = np.arange(len(x))
    for _ in range(int(np.log2(len(feature) + 1))):
        node = 2 * node + 1 + (x[rows, feature[node]] > threshold[node])
    return node - len(feature)


def predicted(trees: Trees, x: np.ndarray) -> np.ndarray:
    """Predictions of rows, f64[n]."""
    found = np.full(len(x), trees.base)
    for feature, threshold, value in zip(trees.feature, trees.threshold, trees.value, strict=True):
        found += value[leaves(feature, threshold, x)]
    return found


def boosted(
    rows: Binned,
    y: np.ndarray,
    *,
    held: np.ndarray,
    rounds: int = 150,
    depth: int = 3,
    rate: float = 0.1,
    least: int = 20,
    shrink: float = 5.0,
    patience: int = 12,
    weight: np.ndarray | None = None,
) -> Trees:
    """Boosted trees of `y` f64[n]; rows in `held` bool[n] stop it: the number of trees is the one that predicts them best, maybe none.

    `weight` f64[n] of rows, by default one; `least` of them a leaf; `shrink`: a leaf's mean counts n / (n + shrink).
    """
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()
    train = np.where(held, 0.0, weight)
    base = float(np.average(y, weights=train))
    residual, grown, losses = y - base, [], [float(np.mean(weight[held] * (y[held] - base) ** 2))]
    for _ in range(rounds):
        feature, threshold, value, node = _tree(rows, residual * train, train, depth=depth, least=least, shrink=shrink)
        residual = residual - rate * value[node]
        grown.append((feature, threshold, rate * value))
        losses.append(float(np.mean(weight[held] * residual[held] ** 2)))
        if len(losses) - 1 - int(np.argmin(losses)) >= patience:
            break
    kept = grown[: int(np.argmin(losses))]
    shape = (len(kept), 2**depth - 1)
    return Trees(
        base=base,
        feature=np.array([each[0] for each in kept], np.int32).reshape(shape),
        threshold=np.array([each[1] for each in kept]).reshape(shape),
        value=np.array([each[2] for each in kept]).reshape(len(kept), 2**depth),
    )


def _tree(
    rows: Binned, target: np.ndarray, train: np.ndarray, *, depth: int, least: int, shrink: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One tree by levels; `target` and `train` are zero in held rows. Last comes the leaf of each row."""
    feature, threshold = np.zeros(2**depth - 1, np.int32), np.full(2**depth - 1, np.inf)
    node = np.zeros(len(target), np.int64)
    # Beside what there is to explain, so that units do not matter.
    nothing = _NOTHING * float(target @ target)
    for level in range(depth):
        best, cut, gain = _splits(rows, node, 2**level, target, train, least=least, shrink=shrink)
        first = 2**level - 1
        for at in np.flatnonzero(gain > nothing):
            feature[first + at], threshold[first + at] = best[at], rows.edges[best[at]][cut[at]]
        cut = np.where(gain > nothing, cut, np.iinfo(np.int32).max)
        node = 2 * node + (rows.codes[best[node], np.arange(len(node))] > cut[node])
    total, count = np.bincount(node, target, 2**depth), np.bincount(node, train, 2**depth)
    return feature, threshold, total / (count + shrink), node


def _splits(
    rows: Binned, node: np.ndarray, nodes: int, target: np.ndarray, train: np.ndarray, *, least: int, shrink: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best feature and bin of each node, and what it gains over no split; no gain where no split leaves `least` rows."""
    features, n = rows.codes.shape
    size = max((len(edges) for edges in rows.edges), default=0) + 1
    found = [np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes)]
    together = max(_TOGETHER // max(n, 1), 1)
    for first in range(0, features if size > 1 else 0, together):
        codes = rows.codes[first : first + together]
        gain = _gain(*_cumulative(codes, node, nodes, size, target, train), least=least, shrink=shrink)
        at = np.argmax(gain, axis=1)
        value = gain[np.arange(nodes), at]
        better = value > found[2]
        new = first + at // (size - 1), at % (size - 1), value
        found = [np.where(better, one, old) for one, old in zip(new, found, strict=True)]
    return found[0], found[1], found[2]


def _cumulative(
    codes: np.ndarray, node: np.ndarray, nodes: int, size: int, target: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets and rows up to each bin of each feature in each node, f64[nodes, features, size] each."""
    features = len(codes)
    first = (np.arange(features)[:, None] + features * node) * size
    place = (first + codes).ravel()
    shape = nodes, features, size
    sums = (
        np.bincount(place, values if features == 1 else np.tile(values, features), nodes * features * size).reshape(shape)
        for values in (target, train)
    )
    total, count = (np.cumsum(each, axis=2) for each in sums)
    return total, count


def _gain(total: np.ndarray, count: np.ndarray, *, least: int, shrink: float) -> np.ndarray:
    """What a split after each bin gains, f64[nodes, features * (size - 1)]; nothing where a side has too few rows."""
    left, right = total[..., :-1], total[..., -1:] - total[..., :-1]
    n_left, n_right = count[..., :-1], count[..., -1:] - count[..., :-1]
    gain = left**2 / (n_left + shrink) + right**2 / (n_right + shrink) - total[..., -1:] ** 2 / (count[..., -1:] + shrink)
    return np.where((n_left >= least) & (n_right >= least), gain, 0.0).reshape(len(total), -1)


def _edges(values: np.ndarray, most: int) -> np.ndarray:
    """Midpoints between neighbouring values: no value lies on an edge, so that rounding to float32 moves none over it."""
    distinct = np.unique(values)
    middles = (distinct[1:] + distinct[:-1]) / 2
    if len(distinct) <= most:
        return middles
    quantiles = np.quantile(values, np.linspace(0.0, 1.0, most + 1)[1:-1])
    return middles[np.unique(np.clip(np.searchsorted(distinct, quantiles, side="right") - 1, 0, len(middles) - 1))]
