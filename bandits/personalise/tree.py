"""Policy trees: who gets which arm, by a few thresholds (Athey and Wager 2021; Zhou, Athey and Wager 2023). Pure.

    maximise  sum_i G[i, pi(x_i)]      over trees pi of a depth; G f64[n, K] the score of each arm for each row

Depth 2 is exact on bins: the joint histogram of two features has all that a split by one and then the other needs. Deeper trees choose
their root by that look ahead, try the best few roots, and go on so in both children.
"""

import itertools
from typing import NamedTuple

import numpy as np

from bandits.personalise.boosting import Binned
from bandits.personalise.tree_shape import PolicyTree, joined, leaf, simplified

__all__ = ["grown"]

# Beyond so many rows the pairs of features are screened on a sample, and the best of them are searched on all rows.
_SCREENED = 50_000
# Bins of a feature beyond which it is screened on coarser ones.
_MANY = 16
# Root features, and partners of each, that stay after screening.
_ROOTS, _PARTNERS = 4, 2
# Roots that a deeper tree tries, best look-ahead first, while rows are few enough to afford it.
_TRIED, _TRIED_ROWS = 6, 60_000


class Split(NamedTuple):
    """A split of rows with `feature` by `bin` (left is code <= bin); `value` is what its arms sum to, less the first arm's sum."""

    value: float
    feature: int
    bin: int


class Sides(NamedTuple):
    """For each root bin of one feature: the best value on the left and right of it, f64[B - 1] each, and the split that gives it."""

    left: np.ndarray
    right: np.ndarray


def grown(rows: Binned, scores: np.ndarray, *, depth: int, least: int = 1, roots: int = _TRIED) -> PolicyTree:
    """The tree of `depth` >= 0 whose arms have the largest sum of `scores` f64[n, K]; every leaf has at least `least` rows.

    `roots`: how many of a tree of more than two levels are tried, the best by look-ahead first.
    """
    # By arm, so that a histogram reads memory in one piece; the first arm gains nothing over itself.
    gains = np.ascontiguousarray((scores - scores[:, :1]).T)
    return simplified(_grown(rows, gains, depth=depth, least=least, most=roots)[1])


def _grown(rows: Binned, gains: np.ndarray, *, depth: int, least: int, most: int) -> tuple[float, PolicyTree]:
    """Value and tree; gains f64[K, n]."""
    n = gains.shape[1]
    totals = gains.sum(axis=1)
    alone = float(totals.max()), leaf(int(np.argmax(totals)), depth)
    if depth == 0 or n < 2 * least:
        return alone
    codes = rows.codes
    roots = _single(rows, codes, gains, least) if depth == 1 else _roots(rows, codes, gains, depth=depth, least=least)
    tried = 1 if depth <= 2 or n > _TRIED_ROWS else most
    found = [alone]
    for root in roots[:tried]:
        right = codes[root.feature] > root.bin
        sides = (np.flatnonzero(side) for side in (~right, right))
        parts = (_grown(_at(rows, side), gains.take(side, axis=1), depth=depth - 1, least=least, most=most) for side in sides)
        values, trees = zip(*parts, strict=True)
        threshold = float(rows.edges[root.feature][root.bin])
        found.append((sum(values), joined(root.feature, threshold, *trees)))
    return max(found, key=lambda item: item[0])


def _at(rows: Binned, chosen: np.ndarray) -> Binned:
    return rows._replace(codes=rows.codes.take(chosen, axis=1))


def _coarse(rows: Binned) -> Binned:
    """Four bins in one, of features that have many: enough to tell which pairs are worth a closer look."""
    shifts = [2 if len(edges) >= _MANY else 0 for edges in rows.edges]
    edges = tuple(each[3::4] if shift else each for each, shift in zip(rows.edges, shifts, strict=True))
    return Binned(rows.codes >> np.array(shifts, np.uint8)[:, None], edges)


def _single(rows: Binned, codes: np.ndarray, gains: np.ndarray, least: int) -> list[Split]:
    """The best single split, if there is any."""
    best: list[Split] = []
    for feature, edges in enumerate(rows.edges):
        if len(edges):
            sums = np.cumsum(_histogram(codes[feature], len(edges) + 1, gains), axis=0)
            value = _two_leaves(sums[:-1], sums[-1] - sums[:-1], least)
            at = int(np.argmax(value))
            best.append(Split(float(value[at]), feature, at))
    return sorted((split for split in best if np.isfinite(split.value)), key=lambda split: -split.value)


def _roots(rows: Binned, codes: np.ndarray, gains: np.ndarray, *, depth: int, least: int) -> list[Split]:
    """Roots of depth-2 trees, the best of each feature and more, by what the best two splits below make of them."""
    features = [at for at, edges in enumerate(rows.edges) if len(edges)]
    pairs = list(itertools.combinations_with_replacement(features, 2))
    n = codes.shape[1]
    if n > _SCREENED and len(pairs) > 2 * _ROOTS * _PARTNERS:
        every = np.arange(0, n, n // _SCREENED + 1)
        some, least_of_them = _at(rows, every), max(least * len(every) // n, 1)
        coarse = _coarse(some)
        pairs = _promising(coarse, coarse.codes, gains[:, every], pairs, least_of_them)
        if depth > 2:
            # What follows below is searched anew, so a root that is best on a sample will do.
            return _ranked(_searched(some, some.codes, gains[:, every], pairs, least_of_them))
    return _ranked(_searched(rows, codes, gains, pairs, least))


def _ranked(searched: dict[tuple[int, int], Sides]) -> list[Split]:
    splits = []
    for root in {root for root, _ in searched}:
        sides = [each for (first, _), each in searched.items() if first == root]
        value = np.max([each.left for each in sides], axis=0) + np.max([each.right for each in sides], axis=0)
        # Neighbouring bins are alike; two a feature are enough to try.
        for at in np.argsort(-value)[: 1 + len(value) // 8]:
            splits.append(Split(float(value[at]), root, int(at)))
    return sorted((split for split in splits if np.isfinite(split.value)), key=lambda split: (-split.value, split.feature, split.bin))


def _promising(rows: Binned, codes: np.ndarray, gains: np.ndarray, pairs: list[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """The pairs that a sample of the rows makes look best."""
    searched = _searched(rows, codes, gains, pairs, least)
    roots = list(dict.fromkeys(split.feature for split in _ranked(searched)))[:_ROOTS]
    kept = set()
    for root in roots:
        partners = {other: each for (first, other), each in searched.items() if first == root}
        total = {other: float(np.max(each.left + each.right)) for other, each in partners.items()}
        at = int(
            np.argmax(
                np.max([each.left for each in partners.values()], axis=0) + np.max([each.right for each in partners.values()], axis=0)
            )
        )
        for score in (total, *({other: getattr(each, side)[at] for other, each in partners.items()} for side in ("left", "right"))):
            for other in sorted(score, key=lambda key: -score[key])[:_PARTNERS]:
                kept.add((min(root, other), max(root, other)))
    return sorted(kept)


def _searched(rows: Binned, codes: np.ndarray, gains: np.ndarray, pairs: list[tuple[int, int]], least: int) -> dict[tuple[int, int], Sides]:
    """By (root feature, feature below): the best values on both sides of every root bin."""
    found = {}
    for first, second in pairs:
        sizes = len(rows.edges[first]) + 1, len(rows.edges[second]) + 1
        joint = _histogram(codes[first].astype(np.intp) * sizes[1] + codes[second], sizes[0] * sizes[1], gains)
        sums = joint.reshape(*sizes, -1).cumsum(axis=0).cumsum(axis=1)
        found[first, second] = _below(sums, least)
        found[second, first] = _below(sums.transpose(1, 0, 2), least)
    return found


def _below(sums: np.ndarray, least: int) -> Sides:
    """Best splits by the second axis on both sides of each bin of the first; `sums` cumulative in both, [B, C, K + 1]."""
    left = sums[:-1]
    right = sums[-1:] - left
    return Sides(*(_best_of_side(side, least) for side in (left, right)))


def _best_of_side(side: np.ndarray, least: int) -> np.ndarray:
    """Best value of the rows of a side, split at one bin of the second axis or not at all; -inf where it has too few rows."""
    whole = side[:, -1]
    alone = np.where(whole[:, -1] >= least, whole[:, :-1].max(axis=1), -np.inf)
    if side.shape[1] < 2:
        return alone
    return np.maximum(alone, _two_leaves(side[:, :-1], whole[:, None] - side[:, :-1], least).max(axis=1))


def _two_leaves(left: np.ndarray, right: np.ndarray, least: int) -> np.ndarray:
    """What the best arms of both sides sum to; the last column counts rows."""
    value = left[..., :-1].max(axis=-1) + right[..., :-1].max(axis=-1)
    return np.where((left[..., -1] >= least) & (right[..., -1] >= least), value, -np.inf)


def _histogram(code: np.ndarray, size: int, gains: np.ndarray) -> np.ndarray:
    """Sums of the gains f64[K, n] and rows of each code, f64[size, K + 1]."""
    code = code.astype(np.intp, copy=False)
    sums = [np.bincount(code, gain, size) for gain in gains[1:]]
    return np.stack([np.zeros(size), *sums, np.bincount(code, minlength=size).astype(np.float64)], axis=1)
