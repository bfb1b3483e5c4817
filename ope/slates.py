"""What each estimator of slates makes of a row. Pure: a checked batch in, its terms out.

With r_l the reward of slot l, W_l the prefix weight (W_0 = 1, W_L the joint weight), m_l the marginal weight, q_l and v_l the model of
the reward from slot l on, at the logged item and averaged over the target's items:

    standard              mean(W_L sum_l r_l)                              nothing assumed about slots
    independent           mean(sum_l m_l r_l)                              Li et al. (2018)
    interacting           mean(sum_l W_l r_l)                              McInerney et al. (2020), equation 5
    pseudo_inverse        mean(s sum_l r_l), s the slate's weight          Swaminathan et al. (2017), equation 4
    cascade               mean(sum_l W_l (r_l - q_l) + W_{l-1} v_l)        Kiyohara et al. (2022), equation 6
"""

import numpy as np

from ope.moments import Terms, ones
from ope.rows import Batch, Floats

__all__ = ["by_slot", "cascade", "normalised_by_slot", "normalised_whole", "whole"]


def whole(batch: Batch, *, kind: str) -> Terms:
    """The slate's reward under one weight for all of it: the last column of the array `kind`."""
    joint, weighted = _whole(batch, kind)
    return Terms(weighted[:, 0], ones(len(joint)), joint, weighted)


def normalised_whole(batch: Batch, *, kind: str) -> Terms:
    """The same, over the weights' own sum."""
    joint, weighted = _whole(batch, kind)
    return Terms(weighted[:, 0], joint[:, 0], joint, weighted)


def by_slot(batch: Batch, *, kind: str) -> Terms:
    """Each slot's reward under its own weight, from the array `kind`."""
    weight: Floats = getattr(batch, kind)
    weighted = weight * batch.reward
    return Terms(weighted.sum(axis=1), ones(len(weight)), weight, weighted)


def normalised_by_slot(batch: Batch, *, kind: str) -> Terms:
    """The same, each slot over the sum of its own weights."""
    weight: Floats = getattr(batch, kind)
    weighted = weight * batch.reward
    return Terms(np.zeros(len(weight)), ones(len(weight)), weight, weighted, normalised=weighted)


def cascade(batch: Batch) -> Terms:
    """Each slot's model value under the weight of the slots before it, corrected under its own."""
    assert batch.weight is not None and batch.q_logged is not None and batch.v_target is not None
    before = np.concatenate([np.ones((len(batch.weight), 1)), batch.weight[:, :-1]], axis=1)
    value = batch.weight * (batch.reward - batch.q_logged) + before * batch.v_target
    return Terms(value.sum(axis=1), ones(len(value)), batch.weight, value)


def _whole(batch: Batch, kind: str) -> tuple[Floats, Floats]:
    joint: Floats = getattr(batch, kind)[:, -1:]
    return joint, joint * batch.reward.sum(axis=1, keepdims=True)
