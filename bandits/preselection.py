"""Long candidate lists: a slate is drawn from the most promising ones; the others have probability 0. Pure.

    shortlist = the M eligible candidates of largest mean + scale, ties by their order in the request

It follows from the snapshot and the request alone, so serving, replay and evaluation cut alike. The cut list is scored anew, as a request
of M candidates: nothing but mean and scale is ever computed of the long one (a policy that draws K x K correlations draws M x M).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bandits.policy import Candidates, Policy
from bandits.slates import ABSENT

__all__ = ["PRESELECT", "Shortlist", "in_request", "in_shortlist", "shortlist"]

#: Candidates that are drawn from, at most. More cost time and give each a smaller share of the floor: 0.02 over 512 is 4e-5 each.
PRESELECT = 512


class Shortlist(NamedTuple):
    """`places` i32[M], ascending: of the shortlisted among the K candidates; None = all of them.

    `scores` of the shortlisted; `mask` bool[M], which of them are eligible; `mean` and `scale` f64[K] of every candidate.
    """

    places: jax.Array | None
    scores: Any
    mask: jax.Array
    mean: jax.Array
    scale: jax.Array


def shortlist(
    policy: Policy, params: Any, context: jax.Array, candidates: Candidates, key: jax.Array, *, eligible: jax.Array, most: int
) -> Shortlist:
    """What a slate is drawn from: at most `most` candidates (0 = all) of those that are eligible, bool[K], and that the policy allows."""
    mask = eligible if policy.eligible is None else policy.eligible(context, candidates, eligible)
    every = policy.score(params, context, candidates, key)
    if most == 0 or mask.shape[0] <= most:
        return Shortlist(None, every, mask, every.mean, every.scale)
    promise = every.mean + every.scale
    # A number that is not finite comes last of the eligible, never before them.
    promise = jnp.where(mask, jnp.where(jnp.isfinite(promise), promise, -jnp.finfo(jnp.float64).max), -jnp.inf)
    places = jnp.sort(jax.lax.top_k(promise, most)[1])
    few = Candidates(*(column[places] for column in candidates))
    return Shortlist(places, policy.score(params, context, few, key), mask[places], every.mean, every.scale)


def in_shortlist(listed: Shortlist, slate: jax.Array) -> jax.Array:
    """Places in the shortlist of a slate of places in the request, i32[L]; ABSENT for what it lacks."""
    if listed.places is None:
        return slate
    place = jnp.minimum(jnp.searchsorted(listed.places, slate), listed.places.shape[0] - 1).astype(jnp.int32)
    return jnp.where(listed.places[place] == slate, place, ABSENT)


def in_request(listed: Shortlist, slate: jax.Array) -> jax.Array:
    """Places in the request of a slate of places in the shortlist, i32[L]."""
    if listed.places is None:
        return slate
    return jnp.where(slate >= 0, listed.places[jnp.maximum(slate, 0)], ABSENT)
