"""Rules of choice: from a number for each candidate to a distribution over those that are eligible.

Each takes values f64[K] and `mask` bool[K] and returns f64[K]: >= 0, zero outside the mask, summing to one over it, all zero where
nothing is eligible. Candidates that tie get the same probability.
"""

import jax
import jax.numpy as jnp

__all__ = ["boltzmann", "even", "greedy", "inverse_gap", "proportional"]


def even(mask: jax.Array) -> jax.Array:
    """The same probability for every eligible candidate."""
    return jnp.where(mask, 1.0, 0.0) / jnp.maximum(jnp.sum(mask, dtype=jnp.float64), 1.0)


def greedy(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The largest value; exact ties share."""
    best = jnp.max(jnp.where(mask, values, -jnp.inf))
    return even(mask & (values == best))


def proportional(weights: jax.Array, mask: jax.Array) -> jax.Array:
    """p_k = w_k / sum_j w_j for weights >= 0; even where no eligible candidate has any."""
    kept = jnp.where(mask, weights, 0.0)
    total = jnp.sum(kept)
    return jnp.where(total > 0.0, kept / jnp.where(total > 0.0, total, 1.0), even(mask))


def boltzmann(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """p_k = exp(l_k) / sum_j exp(l_j). Slates drawn slot by slot from it are Plackett-Luce (Plackett 1975; Luce 1959)."""
    best = jnp.max(jnp.where(mask, logits, -jnp.inf))
    return proportional(jnp.exp(jnp.where(mask, logits - jnp.where(jnp.any(mask), best, 0.0), 0.0)), mask)


def inverse_gap(values: jax.Array, gamma: jax.Array, mask: jax.Array) -> jax.Array:
    """Inverse gap weighting: p_k = 1 / (K + gamma (max_j v_j - v_k)) below the largest value, which gets what is left.

    `gamma` f64[] >= 0, per unit of the values; K = eligible candidates. Foster and Rakhlin, "Beyond UCB", ICML 2020, eq. 3.
    """
    best = jnp.max(jnp.where(mask, values, -jnp.inf))
    below = mask & (values < best)
    gap = jnp.where(below, best - values, 0.0)
    small = jnp.where(below, 1.0 / (jnp.sum(mask, dtype=jnp.float64) + gamma * gap), 0.0)
    return small + (1.0 - jnp.sum(small)) * even(mask & ~below)
