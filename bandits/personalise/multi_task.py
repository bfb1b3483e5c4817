"""One tree for several outcomes: what black boxes say of all arms and outcomes, told by the same few thresholds (Wu et al. 2022). Pure.

    minimise  sum_i sum_t (tau_t(x_i) - leaf mean)^2 / var_t        t over outcomes and arms

Level by level, each node is split where that falls most. The splits know nothing of weights or costs, so one tree serves every trade-off:
a leaf plays the arm that is best by its means.
"""

from typing import NamedTuple

import numpy as np

from bandits.personalise.boosting import Binned
from bandits.personalise.tree_shape import PolicyTree, simplified

__all__ = ["MultiTask", "multi_task", "policy_of"]

# A split has to explain this share of a target's variance, all of them together, not to be one of rounding errors.
_LEAST_GAIN = 1e-9


class MultiTask(NamedTuple):
    """A complete tree: `feature` i32[2^D - 1], `threshold` f64[2^D - 1], and of each leaf the mean of every target, `value` f64[2^D, T]."""

    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray


def multi_task(rows: Binned, targets: np.ndarray, *, depth: int, least: int) -> MultiTask:
    """The tree of `depth` that tells the targets f64[n, T] best; every leaf has at least `least` rows. A constant target has no say."""
    spread = targets.std(axis=0)
    scaled = ((targets - targets.mean(axis=0)) / np.where(spread > 0.0, spread, np.inf)).T
    feature, threshold = np.zeros(2**depth - 1, np.int32), np.full(2**depth - 1, np.inf)
    node = np.zeros(len(targets), np.int64)
    for level in range(depth):
        below, first = 2 * node, 2**level - 1
        for at in range(2**level):
            chosen = np.flatnonzero(node == at)
            split = _best(rows.codes[:, chosen], [len(each) + 1 for each in rows.edges], scaled[:, chosen], least)
            if split is not None:
                feature[first + at], threshold[first + at] = split[0], rows.edges[split[0]][split[1]]
                below[chosen] += rows.codes[split[0], chosen] > split[1]
        node = below
    return MultiTask(feature, threshold, _means(node, targets, 2**depth))


def policy_of(tree: MultiTask, weights: np.ndarray, costs: np.ndarray) -> PolicyTree:
    """The policy of a trade-off: a leaf plays the arm with the largest sum of `weights` f64[J] times its means, less `costs` f64[K].

    The tree's targets are outcome by outcome, all arms of each.
    """
    value = np.einsum("j,ljk->lk", weights, tree.value.reshape(len(tree.value), len(weights), len(costs))) - costs
    return simplified(PolicyTree(tree.feature, tree.threshold, np.argmax(value, axis=1).astype(np.int32)))


def _best(codes: np.ndarray, sizes: list[int], targets: np.ndarray, least: int) -> tuple[int, int] | None:
    """Feature and bin of the best split of these rows; None where none is worth it."""
    n = codes.shape[1]
    found, most = None, _LEAST_GAIN * max(n, 1)
    for feature, size in enumerate(sizes):
        if size < 2 or n < 2 * least:
            continue
        code = codes[feature].astype(np.intp)
        count = np.cumsum(np.bincount(code, minlength=size))[:-1].astype(np.float64)
        sums = np.array([np.cumsum(np.bincount(code, each, size)) for each in targets])
        left, total = sums[:, :-1], sums[:, -1:]
        with_rows = np.maximum(count, 1.0), np.maximum(n - count, 1.0)
        gain = (left**2 / with_rows[0] + (total - left) ** 2 / with_rows[1] - total**2 / n).sum(axis=0)
        gain[(count < least) | (n - count < least)] = 0.0
        at = int(np.argmax(gain))
        if gain[at] > most:
            found, most = (feature, at), float(gain[at])
    return found


def _means(node: np.ndarray, targets: np.ndarray, leaves: int) -> np.ndarray:
    """Means by leaf, f64[leaves, T]; a leaf without rows, which no row reaches, has those of the leaf beside it."""
    count = np.bincount(node, minlength=leaves)
    means = np.array([np.bincount(node, each, leaves) for each in targets.T]).T / np.maximum(count, 1)[:, None]
    for leaf in np.flatnonzero(count == 0):
        filled = np.flatnonzero(count)
        means[leaf] = means[filled[np.argmin(np.abs(filled - leaf))]]
    return means
