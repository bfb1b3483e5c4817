"""Reward models whose predictions carry the identity of their rows: no row is predicted by a model that has seen its unit. Pure.

Any regressor or classifier in scikit-learn's style will do. Folds follow from the unit's key, so a unit is never on both sides, and a row's
prediction is joined to it by its id: predictions of another split, of another log or out of order are refused, not silently used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError
from ope.rows import Floats, Keys

__all__ = ["Model", "Predictions", "aligned", "cross_fit", "folds_of_units", "mrdr_weights"]

# A 64-bit odd number near 2^64 / golden ratio: multiplying by it spreads neighbouring keys (Knuth, TAOCP 3, 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Model(Protocol):
    """A regressor, or a classifier with `predict_proba`, as scikit-learn has them."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Learns; X f64[n, d], y f64[n], weights f64[n] or None."""

    def predict(self, X: Any) -> Any:
        """The mean reward of each row of X."""


class Predictions(NamedTuple):
    """What the model says of n rows under the target policy."""

    # Ids of the rows, u64[n], each once; and the fold that each was left out of, i64[n].
    row_id: Keys
    fold: npt.NDArray[np.int64]
    # At the logged action, and averaged over the target's actions, f64[n].
    q_logged: Floats
    v_target: Floats


def folds_of_units(unit: Keys, *, folds: int) -> npt.NDArray[np.int64]:
    """The fold of each unit, i64[n] in 0..folds-1: of its key alone, so all rows of a unit share it."""
    return ((unit * _SPREAD) >> np.uint64(40)).astype(np.int64) % folds


def cross_fit(
    make: Callable[[], Model],
    *,
    features: Floats,
    action: npt.NDArray[np.int64],
    reward: Floats,
    target: Floats,
    row_id: Keys,
    unit: Keys | None = None,
    folds: int = 3,
    weight: Floats | None = None,
) -> Predictions:
    """Predictions for n rows, each by a model that `make` makes and that was fitted on the other folds.

    `features` [n, d] of the context, `action` i64[n] in 0..K-1 (given to the model as K indicators beside the features), `reward` [n],
    `target` [n, K] propensities, `weight` [n] >= 0 of rows in the fit (`mrdr_weights`). Raises RowsError for a fold without rows.
    """
    _once(row_id)
    fold = folds_of_units(row_id if unit is None else unit, folds=folds)
    q, v = np.empty(len(reward)), np.empty(len(reward))
    for left_out in range(folds):
        mine, others = fold == left_out, fold != left_out
        if mine.all() or not others.any():
            raise RowsError(f"folds: all rows are in fold {left_out} of {folds}; cross-fitting needs units in two folds at least")
        given = {} if weight is None else {"sample_weight": weight[others]}
        model = make()
        model.fit(_with_action(features[others], action[others], target.shape[1]), reward[others], **given)
        q[mine], v[mine] = _said(model, features[mine], action[mine], target[mine])
    return Predictions(row_id, fold, q, v)


def mrdr_weights(*, target: Floats, logged: Floats) -> Floats:
    """Weights f64[n] of rows in the fit that make the variance of DR small, not the error of the model.

    target^2 (1 - logged) / logged^2, from the propensities [n] of the logged action: the diagonal of the matrix of Farajtabar, Chow and
    Ghavamzadeh (2018), equation 10, which is all of it for a deterministic target.
    """
    return np.asarray(target**2 * (1 - logged) / logged**2)


def aligned(predictions: Predictions, row_id: Keys) -> Predictions:
    """The predictions of exactly these rows, in their order. Raises RowsError, naming a row, where one has none: another split or log."""
    _once(predictions.row_id)
    order = np.argsort(predictions.row_id)
    place = np.minimum(np.searchsorted(predictions.row_id[order], row_id), max(len(order) - 1, 0))
    found = predictions.row_id[order][place] == row_id if len(order) else np.zeros(len(row_id), bool)
    if not found.all():
        row = int(np.flatnonzero(~found)[0])
        missing = int((~found).sum())
        raise RowsError(
            f"row {row} (id {row_id[row]}) has no prediction, nor have {missing - 1} others: they are of another split; fit on this log"
        )
    at = order[place]
    return Predictions(row_id, predictions.fold[at], predictions.q_logged[at], predictions.v_target[at])


def _said(model: Model, features: Floats, action: npt.NDArray[np.int64], target: Floats) -> tuple[Floats, Floats]:
    """At the logged action and over the target's, one action at a time: never an n x K x d tensor."""
    actions = target.shape[1]
    q, v = _predicted(model, _with_action(features, action, actions)), np.zeros(len(features))
    for each in range(actions):
        v += target[:, each] * _predicted(model, _with_action(features, np.full(len(features), each), actions))
    return q, v / target.sum(axis=1)


def _predicted(model: Model, rows: Floats) -> Floats:
    if not len(rows):
        return np.zeros(0)
    chance = getattr(model, "predict_proba", None)
    return np.asarray(model.predict(rows) if chance is None else chance(rows)[:, -1], np.float64)


def _with_action(features: Floats, action: npt.NDArray[np.int64], actions: int) -> Floats:
    return np.concatenate([features, (action[:, None] == np.arange(actions)).astype(np.float64)], axis=1)


def _once(row_id: Keys) -> None:
    if len(np.unique(row_id)) != len(row_id):
        raise RowsError("row_id: an id stands twice; a row's id must be its own, say a hash of its decision id")
