"""The contract of a world to try policies in: pure functions of a seed, a round and a key.

A round is a decision: the world makes an `Offer`, the policy draws a slate from it, the world answers with an `Outcome`. What a seed
fixes (parameters, an order of rows) is its `world`, made on the host; everything random within a round comes from that round's key,
so all policies of one seed meet the same contexts and are compared on them in pairs.

The functions are unbatched: `run` maps them over seeds. K candidates, L slots, d context features, f action features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.policy import Candidates, Dims
from bandits.slates import ABSENT

__all__ = ["Environment", "Offer", "Outcome", "World", "at_once", "expected_of", "offer_all", "single"]

# A pytree of arrays that belongs to one seed.
World = Any


class Offer(NamedTuple):
    """What a request brings: `context` f32[d], as it travels; `candidates`; `eligible` bool[K]; `truth`, for `respond` alone."""

    context: jax.Array
    candidates: Candidates
    eligible: jax.Array
    truth: Any


class Outcome(NamedTuple):
    """What came of a slate: `reward` f64[L] and `seen` bool[L] by slot, only seen slots are learned from; `counted` bool[], whether the
    round counts at all (a replay skips those that the log cannot answer).

    `earned` f64[]: the reward of the round that is reported; `value` and `best` f64[]: the expected reward of this slate and of the
    best one. Regret is best - value; both are NaN where the world does not know.

    `outcomes` f64[L, J]: what a policy of several outcomes learns from, None where the world has none (J = 0); `violated` bool[]: whether
    the slate breaks the world's constraint in expectation, None where it has none.
    """

    reward: jax.Array
    seen: jax.Array
    counted: jax.Array
    earned: jax.Array
    value: jax.Array
    best: jax.Array
    outcomes: Any = None
    violated: Any = None


def at_once(key: jax.Array) -> jax.Array:
    """The delay of a world whose rewards are known before the next request."""
    return jnp.zeros((), jnp.int32)


class Environment(NamedTuple):
    """A world: its sizes, and its functions.

    - `begin(seed) -> world`: what the seed fixes, numpy arrays of the same shapes for every seed;
    - `offer(world, t, key) -> Offer` of round t, i32[], from 0;
    - `respond(world, t, offer, slate, key) -> Outcome` to a slate, i32[L], indices into the candidates, ABSENT behind its end;
    - `delay(key) -> i32[]`: rounds until the rewards of a round are known, at most `longest_delay`.
    """

    dims: Dims
    begin: Callable[[int], World]
    offer: Callable[[World, jax.Array, jax.Array], Offer]
    respond: Callable[[World, jax.Array, Offer, jax.Array, jax.Array], Outcome]
    slots: int = 1
    # Names of the outcomes that come with the reward, in the order of `Outcome.outcomes`.
    outcomes: tuple[str, ...] = ()
    # How many rounds the world has; None = as many as are asked for.
    rounds: int | None = None
    delay: Callable[[jax.Array], jax.Array] = at_once
    longest_delay: int = 0
    # What a reader of its figures must be told; empty where nothing is doubtful.
    caveat: str = ""


def offer_all(dims: Dims, context: jax.Array, *, truth: Any) -> Offer:
    """An offer of all actions of the table, without features."""
    candidates = Candidates.of(jnp.asarray(np.arange(dims.actions), jnp.int32))
    return Offer(context=context, candidates=candidates, eligible=jnp.ones(dims.actions, bool), truth=truth)


def single(reward: jax.Array, *, value: jax.Array, best: jax.Array) -> Outcome:
    """The outcome of a slate of one that is always seen; all arguments f64[]."""
    seen = jnp.ones(1, bool)
    return Outcome(reward=reward[None], seen=seen, counted=seen[0], earned=reward, value=value, best=best)


def expected_of(table: jax.Array, slate: jax.Array) -> jax.Array:
    """Entries of `table`, [K], at the slots of a slate, [L]; 0 where a slot is ABSENT."""
    return jnp.where(slate == ABSENT, jnp.zeros((), table.dtype), table[jnp.maximum(slate, 0)])
