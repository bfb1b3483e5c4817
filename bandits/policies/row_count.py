"""`init`, `update` and `prepare` of policies whose numbers are settings: their state counts rows, f64[]; serving needs nothing of it."""

import jax
import jax.numpy as jnp

from bandits.policy import Batch

__all__ = ["count_rows", "no_rows", "nothing"]


def no_rows() -> jax.Array:
    """`init`: no row so far."""
    return jnp.zeros((), jnp.float64)


def count_rows(state: jax.Array, batch: Batch) -> jax.Array:
    """`update`: the sum of weights, so a row that is taken back counts no more."""
    return state + jnp.sum(batch.weight)


def nothing(state: jax.Array) -> jax.Array:
    """`prepare`: one zero, for a tree of params must have a leaf."""
    return jnp.zeros((), jnp.float64)
