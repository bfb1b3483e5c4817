"""What each estimator of single actions makes of a row. Pure: a checked batch in, its terms out.

With w the weight, r the reward, q the model at the logged action, v its mean over the target's actions, and u a tamer weight
(`ope.weights`), the values are

    importance        mean(u r)
    self_normalised   sum(w r) / sum(w)
    model             mean(v)
    corrected         mean(v + u (r - q))
    corrected_self_normalised    mean(v) + sum(w (r - q)) / sum(w)
"""

from collections.abc import Callable

import numpy as np

from ope.errors import RowsError
from ope.moments import Terms, ones
from ope.rows import Batch, Floats

__all__ = ["Taming", "corrected", "corrected_self_normalised", "importance", "model", "self_normalised"]

# weight -> tamer weight, elementwise.
Taming = Callable[[Floats], Floats]


def importance(batch: Batch, *, kind: str, tame: Taming | None = None) -> Terms:
    """Weighted rewards; `kind` is the array of the batch that holds the weight."""
    weight, reward = _column(batch, kind), _column(batch, "reward")
    return _mean((weight if tame is None else tame(weight)) * reward, weight)


def self_normalised(batch: Batch, *, kind: str) -> Terms:
    """Weighted rewards over the weights' own sum."""
    weight = _column(batch, kind)
    weighted = weight * _column(batch, "reward")
    return Terms(weighted, weight, weight[:, None], weighted[:, None])


def model(batch: Batch) -> Terms:
    """The reward model alone."""
    value = _column(batch, "v_target")
    return Terms(value, ones(len(value)), np.zeros((len(value), 0)), np.zeros((len(value), 0)))


def corrected(batch: Batch, *, kind: str, tame: Taming | None = None) -> Terms:
    """The reward model, corrected by the weighted error that it made on the logged action."""
    weight = _column(batch, kind)
    tamed = weight if tame is None else tame(weight)
    return _mean(_column(batch, "v_target") + tamed * (_column(batch, "reward") - _column(batch, "q_logged")), weight)


def corrected_self_normalised(batch: Batch, *, kind: str) -> Terms:
    """The same, the correction over the weights' own sum."""
    weight, value = _column(batch, kind)[:, None], _column(batch, "v_target")
    correction = weight * (batch.reward - _column(batch, "q_logged")[:, None])
    return Terms(value, ones(len(value)), weight, value[:, None] + correction, normalised=correction)


def _mean(numerator: Floats, weight: Floats) -> Terms:
    return Terms(numerator, ones(len(numerator)), weight[:, None], numerator[:, None])


def _column(batch: Batch, name: str) -> Floats:
    values: Floats = getattr(batch, name)
    if values.shape[1] != 1:
        raise RowsError(f"{name} has {values.shape[1]} slots; this estimator takes single actions: use rips or sips for slates")
    return values[:, 0]
