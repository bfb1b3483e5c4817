"""Thompson sampling of candidates whose rewards are correlated: joint draws in the space of scores, and how often each wins.

    s_km = mean_k + own_k e_km + loading_k . n_m,   e, n standard normal;   p_k = share of the M draws m in which k is the largest

The normals follow from the request's key and their place alone, not from how far the candidates were padded. The same M draws serve
every slot, so the second slot's distribution is the one that the first slot's draw leaves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from bandits.keys import threefry2x32
from bandits.policies.linear_posterior import Moments
from bandits.policies.rules import greedy

__all__ = ["DRAWS", "JointScores", "joint_scores", "normals", "win_frequencies"]

#: A frequency p of M draws has a standard error of sqrt(p (1 - p) / M): 0.03 at most.
DRAWS = 256
# Second words of the counters of this file's numbers (see `bandits.keys`): what each is for.
_OWN, _SHARED = 4, 5
_SLICES = scipy.special.ndtri((np.arange(4096) + 0.5) / 4096.0)


class JointScores(NamedTuple):
    """`mean` and `scale` [K] of each candidate's expected reward; `draws` [K, M] of all of them together, less what they share."""

    mean: jax.Array
    scale: jax.Array
    draws: jax.Array


def joint_scores(moments: Moments, key: jax.Array, *, draws: int, exploration: float, own: bool) -> JointScores:
    """Draws of a request; `own` = each candidate's block is its own, not one that all share (and that so moves no ranking)."""
    k, p = moments.loading.shape
    noise = moments.loading @ normals(key, (p, draws), purpose=_SHARED)
    if own:
        noise = noise + moments.own_scale[:, None] * normals(key, (k, draws), purpose=_OWN)
    return JointScores(mean=moments.mean, scale=moments.scale, draws=moments.mean[:, None] + exploration * noise)


def win_frequencies(draws: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of the draws f64[K, M] in which each eligible candidate is the largest, f64[K]; ties share."""
    return jnp.mean(jax.vmap(greedy, in_axes=(1, None))(draws, mask), axis=0)


def normals(key: jax.Array, shape: tuple[int, int], *, purpose: int) -> jax.Array:
    """Standard normal numbers f64[shape] from a typed JAX key of two words; the same row whatever the number of rows.

    Each is the middle of one of 4,096 equally likely slices: exact tails cost ten times as much, and nothing is read from so few draws
    that they would show. `shape[1]` must be a multiple of 4.
    """
    words = jax.random.key_data(key)
    counter = jnp.arange(shape[0] * shape[1] // 4, dtype=jnp.uint32)
    pair = threefry2x32((words[0], words[1]), (counter, jnp.full_like(counter, np.uint32(purpose))))
    slices = jnp.stack([*(word >> 20 for word in pair), *((word >> 4) & 0xFFF for word in pair)], axis=1)
    return jnp.asarray(_SLICES)[slices.reshape(shape)]
