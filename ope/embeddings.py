"""Weights of action embeddings: many actions, few kinds of action. Pure.

    w(x, e) = sum_a p(e | a) target(a | x) / sum_a p(e | a) logged(a | x)         Saito and Joachims (2022), equation 6

e is a tuple of D categories that are drawn independently given the action, p(e | a) = prod_d p_d(e_d | a).
"""

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError
from ope.rows import Floats

__all__ = ["embedding_weights"]

_ROWS = 1 << 12


def embedding_weights(*, embedding: npt.NDArray[np.int64], chance: npt.ArrayLike, target: npt.ArrayLike, logged: npt.ArrayLike) -> Floats:
    """Weights f64[n] of the logged embeddings i64[n, D].

    `chance` [K, C, D]: probability of category c in place d given action k. `target`, `logged` [n, K]: propensities of every action.
    Raises RowsError for an embedding that the logging policy cannot show.
    """
    chance, target, logged = (np.asarray(values, np.float64) for values in (chance, target, logged))
    # In blocks of rows, so that the n x K table of p(e | a) never stands whole.
    parts = [_block(embedding[at : at + _ROWS], chance, target[at : at + _ROWS], logged[at : at + _ROWS]) for at in _starts(len(embedding))]
    weight = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(weight).all():
        row = int(np.flatnonzero(~np.isfinite(weight))[0])
        raise RowsError(f"embedding of row {row}: no action that the logging policy can take has it; check `chance` and `logged`")
    return weight


def _starts(rows: int) -> range:
    return range(0, rows, _ROWS)


def _block(embedding: npt.NDArray[np.int64], chance: Floats, target: Floats, logged: Floats) -> Floats:
    joint = np.ones(target.shape)
    for place in range(embedding.shape[1]):
        joint *= chance[:, embedding[:, place], place].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((joint * target).sum(axis=1) / (joint * logged).sum(axis=1))
