"""A guidance tree: a small tree whose leaves say which of several policies to follow. Pure.

Trees within trees are trees, so that a guidance tree over policy trees is served, explained and judged as one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bandits.personalise.boosting import Binned
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import PolicyTree, arms_of_rows, deepened, grafted, simplified

__all__ = ["Guided", "guided"]


class Guided(NamedTuple):
    """`guide` plays places of the policies that were offered; `policy` is it all in one tree."""

    guide: PolicyTree
    policy: PolicyTree


def guided(rows: Binned, x: np.ndarray, scores: np.ndarray, policies: Sequence[PolicyTree], *, depth: int, least: int) -> Guided:
    """The guide of `depth` whose policies have the largest sum of `scores` f64[n, K] over the rows, f64[n, d] and in bins.

    Every leaf of the guide has at least `least` rows. Earlier policies win ties.
    """
    each = np.arange(len(scores))
    played = np.column_stack([scores[each, arms_of_rows(policy, x)] for policy in policies])
    guide = grown(rows, played, depth=depth, least=least)
    deepest = max(policy.depth for policy in policies)
    return Guided(guide, simplified(grafted(guide, [deepened(policy, deepest) for policy in policies])))
