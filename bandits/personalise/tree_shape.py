"""The shape of policy trees: three arrays, what they play, and trees made of trees. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.personalise.boosting import leaves

__all__ = ["PolicyTree", "arms_of_rows", "deepened", "grafted", "joined", "leaf", "simplified"]


class PolicyTree(NamedTuple):
    """A complete tree of depth D: `feature` i32[2^D - 1], `threshold` f64[2^D - 1] (left is x <= threshold), `arm` i32[2^D]."""

    feature: np.ndarray
    threshold: np.ndarray
    arm: np.ndarray

    @property
    def depth(self) -> int:
        """D: thresholds on the way to a leaf."""
        return int(np.log2(len(self.arm)))


def arms_of_rows(tree: PolicyTree, x: np.ndarray) -> np.ndarray:
    """The arm of each row, i32[n]; rows f64[n, d]."""
    return tree.arm[leaves(tree.feature, tree.threshold, x)]


def leaf(arm: int, depth: int) -> PolicyTree:
    """A tree of this depth that plays one arm."""
    nodes = 2**depth - 1
    return PolicyTree(np.zeros(nodes, np.int32), np.full(nodes, np.inf), np.full(nodes + 1, arm, np.int32))


def deepened(tree: PolicyTree, depth: int) -> PolicyTree:
    """The same policy as a tree of `depth` >= its own."""
    while tree.depth < depth:
        nodes = len(tree.arm)
        feature, threshold = np.append(tree.feature, np.zeros(nodes, np.int32)), np.append(tree.threshold, np.full(nodes, np.inf))
        tree = PolicyTree(feature.astype(np.int32), threshold, np.repeat(tree.arm, 2))
    return tree


def grafted(tree: PolicyTree, others: Sequence[PolicyTree]) -> PolicyTree:
    """The tree in which each leaf is the tree of `others`, all of one depth, that it names by its place."""
    if tree.depth == 0:
        return others[int(tree.arm[0])]
    left, right = (grafted(side, others) for side in _sides(tree))
    return joined(int(tree.feature[0]), float(tree.threshold[0]), left, right)


def simplified(tree: PolicyTree) -> PolicyTree:
    """The same policy without splits that change nothing: both sides play one arm, or one side plays what the other would there."""
    if tree.depth == 0:
        return tree
    feature, threshold = int(tree.feature[0]), float(tree.threshold[0])
    left, right = (simplified(side) for side in _sides(tree))
    if np.isfinite(threshold):
        if len(_played(left, {}, {})) == 1 and _played(left, {}, {}) == _played(right, {}, {feature: threshold}):
            return joined(0, np.inf, right, right)
        if len(_played(right, {}, {})) == 1 and _played(right, {}, {}) == _played(left, {feature: threshold}, {}):
            return joined(0, np.inf, left, left)
    return joined(feature, threshold, left, right)


def joined(feature: int, threshold: float, left: PolicyTree, right: PolicyTree) -> PolicyTree:
    """The tree with this root, in heap order: level by level, left before right; both sides have one depth."""
    order: list[tuple[int, float]] = [(feature, threshold)]
    for level in range(left.depth):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        for side in (left, right):
            order += zip(side.feature[nodes].tolist(), side.threshold[nodes].tolist(), strict=True)
    return PolicyTree(
        feature=np.array([each[0] for each in order], np.int32),
        threshold=np.array([each[1] for each in order]),
        arm=np.concatenate([left.arm, right.arm]),
    )


def _sides(tree: PolicyTree) -> tuple[PolicyTree, PolicyTree]:
    """The trees below the root."""
    half = len(tree.arm) // 2
    places: tuple[list[int], list[int]] = ([], [])
    for level in range(1, tree.depth):
        first, width = 2**level - 1, 2 ** (level - 1)
        for side in (0, 1):
            places[side].extend(range(first + side * width, first + (side + 1) * width))
    left, right = (PolicyTree(tree.feature[at], tree.threshold[at], tree.arm) for at in places)
    return left._replace(arm=tree.arm[:half]), right._replace(arm=tree.arm[half:])


def _played(tree: PolicyTree, above: Mapping[int, float], upto: Mapping[int, float]) -> set[int]:
    """The arms that rows can come to whose features lie above some bounds and at most at others."""
    if tree.depth == 0:
        return {int(tree.arm[0])}
    feature, threshold = int(tree.feature[0]), float(tree.threshold[0])
    left, right = _sides(tree)
    found: set[int] = set()
    if above.get(feature, -np.inf) < threshold:
        found |= _played(left, above, {**upto, feature: min(threshold, upto.get(feature, np.inf))})
    if upto.get(feature, np.inf) > threshold:
        found |= _played(right, {**above, feature: max(threshold, above.get(feature, -np.inf))}, upto)
    return found
