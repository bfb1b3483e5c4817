"""Where an item may stand: per-item marginal propensities of a slate, over all ways in which the other slots may fall. Pure.

    P(k in slot l) = sum over prefixes s of l items of P(s) p_l(k | s),      P(k anywhere) = sum_l P(k in slot l)

with the conditional propensities that are drawn from and logged, quantised. Exact by enumeration of the prefixes where there are few;
else over walks drawn from a key, each of which gives the whole vector p_l(. | s) and not only what it drew (Rao-Blackwell: Casella &
Robert 1996), so the top slot stays exact.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.keys import walk_key
from bandits.policy import Policy
from bandits.preselection import Shortlist
from bandits.quantise import DENOMINATOR, quantise
from bandits.slates import sample_slate

__all__ = ["MOST_ENUMERATED", "Marginals", "exact_marginals", "marginals", "ordered_slates", "sampled_marginals", "shortlist_marginals"]

#: Ordered slates up to which marginals are enumerated.
MOST_ENUMERATED = 20_000


class Marginals(NamedTuple):
    """Marginal propensities: `anywhere` f64[K], `in_slot` f64[L, K]; their standard errors in the same shapes, 0 where exact."""

    anywhere: jax.Array
    in_slot: jax.Array
    anywhere_error: jax.Array
    in_slot_error: jax.Array


def ordered_slates(candidates: int, slots: int) -> int:
    """How many ordered slates there are: K (K - 1) ... (K - L + 1)."""
    return math.perm(candidates, min(slots, candidates))


def marginals(policy: Policy, scores: Any, mask: jax.Array, key: jax.Array, *, slots: int, walks: int = 1024) -> Marginals:
    """Exact where there are at most 20,000 ordered slates of the K candidates, otherwise by `walks` walks keyed by `key`, u32[2]."""
    if ordered_slates(mask.shape[0], slots) <= MOST_ENUMERATED:
        return exact_marginals(policy, scores, mask, slots=slots)
    return sampled_marginals(policy, scores, mask, key, slots=slots, walks=walks)


def shortlist_marginals(policy: Policy, listed: Shortlist, key: jax.Array, *, slots: int, walks: int = 1024) -> Marginals:
    """`marginals` of a request whose candidates may have been cut: over all K, 0 for those outside the shortlist."""
    found = marginals(policy, listed.scores, listed.mask, key, slots=slots, walks=walks)
    if listed.places is None:
        return found
    every = listed.mean.shape[0]
    return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], every), jnp.float64).at[..., listed.places].set(leaf), found)


def exact_marginals(policy: Policy, scores: Any, mask: jax.Array, *, slots: int) -> Marginals:
    """By enumeration: every prefix of every slot, K (K - 1) ... rows of `choose`. For `scores` of K candidates and `mask` bool[K]."""
    count = mask.shape[0]
    # One row a prefix: what is left to draw, its probability, and which items it does not hold (known beforehand).
    left, probability, distinct, rows = mask[None], jnp.ones(1, jnp.float64), np.ones((1, count), bool), []
    for _ in range(min(slots, count)):
        reached = probability[:, None] * jax.vmap(lambda free: _propensities(policy, scores, free))(left)
        rows.append(jnp.sum(reached, axis=0))
        row, item = np.nonzero(distinct)
        others = np.arange(count) != item[:, None]
        left, probability, distinct = left[row] & others, reached[row, item], distinct[row] & others
    in_slot = jnp.zeros((slots, count), jnp.float64).at[: len(rows)].set(jnp.stack(rows))
    return Marginals(jnp.sum(in_slot, axis=0), in_slot, jnp.zeros(count, jnp.float64), jnp.zeros_like(in_slot))


def sampled_marginals(policy: Policy, scores: Any, mask: jax.Array, key: jax.Array, *, slots: int, walks: int) -> Marginals:
    """By `walks` >= 2 walks keyed by `key`, u32[2]: unbiased, with standard errors (1/sqrt(walks) of the walks' deviation).

    A walk s says p_l(. | s) of slot l, and of anywhere 1[k in s before the last slot] + p_L(k | s): both vary less than what it drew.
    """
    numbers = jnp.arange(walks, dtype=jnp.uint32)
    anywhere, in_slot = jax.lax.map(lambda walk: _walked(policy, scores, mask, walk_key(key, walk), slots), numbers)
    return Marginals(jnp.mean(anywhere, axis=0), jnp.mean(in_slot, axis=0), _error(anywhere), _error(in_slot))


def _walked(policy: Policy, scores: Any, mask: jax.Array, key: Any, slots: int) -> tuple[jax.Array, jax.Array]:
    """What a walk says of anywhere, f64[K], and of each slot, f64[L, K]."""
    drawn = sample_slate(policy, scores, mask, key, jnp.int32(slots), slots=slots).action
    places = jnp.arange(mask.shape[0], dtype=jnp.int32)
    rows, earlier = [], jnp.zeros(mask.shape[0], bool)
    for slot in range(slots):
        earlier = earlier if slot == 0 else earlier | (places == drawn[slot - 1])
        rows.append(_propensities(policy, scores, mask & ~earlier))
    return jnp.where(earlier, 1.0, rows[-1]), jnp.stack(rows)


def _propensities(policy: Policy, scores: Any, mask: jax.Array) -> jax.Array:
    return quantise(policy.choose(scores, mask), mask).astype(jnp.float64) / DENOMINATOR


def _error(each: jax.Array) -> jax.Array:
    return jnp.std(each, axis=0, ddof=1) / math.sqrt(each.shape[0])
