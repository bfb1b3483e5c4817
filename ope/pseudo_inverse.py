"""Weights of whole slates, where the reward is a sum over slots of what each item does there. Pure.

With 1_s the indicator of the slate's (slot, item) pairs and Gamma = E_logged[1_s 1_s'] the Gram matrix of the logging policy,

    weight(s) = (E_target 1_s)' Gamma^+ 1_s                    Swaminathan et al. (2017), equation 4

For logging policies that draw slots independently this is 1 - L + sum_l target_l / logged_l, with no matrix at all.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ope.errors import RowsError
from ope.rows import Floats

__all__ = ["gram", "product_weights", "slate_weights"]

# Eigenvalues of the Gram matrix below this share of the largest are rounding: the pairs of one slot sum to 1, so it is singular.
_SINGULAR = 1e-10


def product_weights(marginal: npt.ArrayLike) -> Floats:
    """Weights f64[n] of slates whose slots were drawn independently, from the marginal weights [n, L] of their items."""
    marginal = np.asarray(marginal, np.float64)
    return np.asarray(1 - marginal.shape[1] + marginal.sum(axis=1))


def gram(*, slates: npt.NDArray[np.int64], probability: npt.ArrayLike, items: int) -> Floats:
    """Gamma f64[L K, L K] of a policy that shows `slates` i64[m, L] (items 0..K-1) with `probability` [m], which sums to 1.

    Enumerate all slates, or give draws with probability 1/m each. Pairs of slot l and item k stand at l K + k.
    Raises RowsError if the probabilities do not sum to 1.
    """
    probability = np.asarray(probability, np.float64)
    if abs(probability.sum() - 1) > 1e-6:
        raise RowsError(f"probability sums to {probability.sum():.6g}; give the chance of each slate, which sum to 1")
    shown = _indicators(slates, items)
    return (shown * probability[:, None]).T @ shown


def slate_weights(*, logged: npt.NDArray[np.int64], gram: Floats, target: npt.ArrayLike) -> Floats:
    """Weights f64[n] of slates `logged` i64[n, L] drawn in one context, whose logging policy has that Gram matrix.

    `target` [L, K]: the target's marginal probability of each item in each slot. Raises RowsError where the target shows an item in a
    slot in which the logging policy never does: then there is no unbiased weight.
    """
    wanted = np.asarray(target, np.float64)
    items = wanted.shape[1]
    unseen = np.argwhere((wanted > 0) & (np.diag(gram).reshape(wanted.shape) <= 0))
    if len(unseen):
        slot, item = unseen[0]
        raise RowsError(
            f"target shows item {item} in slot {slot} with {wanted[slot, item]:.4g}, the logging policy never: there is no support"
        )
    solved = np.linalg.pinv(gram, rcond=_SINGULAR, hermitian=True) @ wanted.reshape(-1)
    return np.asarray(_indicators(logged, items) @ solved)


def _indicators(slates: npt.NDArray[np.int64] | Sequence[Sequence[int]], items: int) -> Floats:
    slates = np.asarray(slates, np.int64)
    rows, slots = slates.shape
    shown = np.zeros((rows, slots * items))
    shown[np.arange(rows)[:, None], np.arange(slots) * items + slates] = 1.0
    return shown
