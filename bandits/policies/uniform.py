"""Every eligible candidate with the same probability: the first champion of a task, and the yardstick of every other policy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bandits.policies.row_count import count_rows, no_rows
from bandits.policy import Candidates, Dims, Policy, added

__all__ = ["uniform"]


class _Scores(NamedTuple):
    mean: jax.Array
    scale: jax.Array


def uniform(dims: Dims) -> Policy:
    """p = 1 / (eligible candidates). Learns nothing; its state counts the rows it has seen, f64[]."""

    def prepare(state: jax.Array) -> jax.Array:
        return state

    def score(params: jax.Array, context: jax.Array, candidates: Candidates, key: jax.Array) -> _Scores:
        nothing = jnp.zeros(candidates.action.shape[0], jnp.float64)
        return _Scores(mean=nothing, scale=nothing)

    def choose(scores: _Scores, mask: jax.Array) -> jax.Array:
        return jnp.where(mask, 1.0, 0.0) / jnp.maximum(jnp.sum(mask, dtype=jnp.float64), 1.0)

    return Policy(init=no_rows, update=count_rows, prepare=prepare, score=score, choose=choose, merge=added)
