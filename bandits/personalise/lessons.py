"""What trees are taught: the black box's word, doubly robust scores, or something between, whichever teaches better. Pure.

    taught = (1 - l) tau + l G      tau what the black box says of each row and arm, G the row's doubly robust scores

The word has little noise but the black box's bias, and what a small tree cannot say is lost; scores have no bias and much noise. Which
counts more differs from one experiment to the next, so l is the one whose trees are worth most on folds of the rows that train, where
neither they nor the black box behind them have seen the fold.
"""

from typing import NamedTuple

import numpy as np

from bandits.personalise.black_box import BlackBox, between, combined
from bandits.personalise.boosting import Binned
from bandits.personalise.learners import Rows
from bandits.personalise.tree import grown
from bandits.personalise.tree_shape import arms_of_rows

__all__ = ["SHARES", "Lesson", "lesson"]

#: The shares l of scores that are tried.
SHARES = (0.0, 0.5, 1.0)
# Rows, which come in random order, that the choice is made on.
_MOST_ROWS = 60_000
# A share of scores has to be worth so many paired standard errors more than the black box's word alone.
_CLEARLY = 0.5
# Trees that are only compared need not be searched as far as those that are kept.
_ROOTS = 2


class Lesson(NamedTuple):
    """`taught` f64[n, K]; `share` l of scores in it; `worth` of each share that was tried, on folds that taught nothing."""

    taught: np.ndarray
    share: float
    worth: dict[float, float]


def lesson(box: BlackBox, rows: Rows, bins: Binned, costs: np.ndarray, *, depth: int, least: int) -> Lesson:
    """What trees of up to `depth` with at least `least` rows a leaf are taught of the rows that trained the black box."""
    worth = _worth(box, rows, bins, costs, depth, least)
    share = _chosen(worth)
    taught = _mixed(box.inside, box.scores, share) - costs
    return Lesson(taught, share, {each: float(values.mean()) for each, values in zip(SHARES, worth, strict=True)})


def _worth(box: BlackBox, rows: Rows, bins: Binned, costs: np.ndarray, depth: int, least: int) -> np.ndarray:
    """Scores of the arms that trees of each share play in folds that they have not seen, f64[S, m] of the first m rows."""
    of = box.fold[:_MOST_ROWS]
    found = np.zeros((len(SHARES), len(of)))
    for fold, models in enumerate(box.fold_models):
        seen, fresh = np.flatnonzero(of != fold), np.flatnonzero(of == fold)
        word = combined([model(rows.x[seen]) for model in models], box.weights.values())
        some = bins._replace(codes=bins.codes[:, seen])
        for at, share in enumerate(SHARES):
            taught = _mixed(word, box.scores[seen], share) - costs
            tree = grown(some, taught, depth=depth, least=max(least * len(seen) // len(rows.y), 1), roots=_ROOTS)
            arms = arms_of_rows(tree, rows.x[fresh])
            found[at, fresh] = box.scores[fresh, arms] - costs[arms]
    return found


def _chosen(worth: np.ndarray) -> float:
    best = int(np.argmax(worth.mean(axis=1)))
    gain = worth[best] - worth[0]
    error = float(gain.std()) / np.sqrt(len(gain))
    return SHARES[best] if float(gain.mean()) > _CLEARLY * error else SHARES[0]


def _mixed(word: np.ndarray, scores: np.ndarray, share: float) -> np.ndarray:
    return (1.0 - share) * word + share * between(scores)
