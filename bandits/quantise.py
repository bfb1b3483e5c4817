"""Probabilities as integers out of 2^31: what is drawn from is what is logged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["DENOMINATOR", "pick", "quantise"]

# Largest power of two whose numerators, up to and including itself, fit a uint32 with their running sum.
DENOMINATOR = 1 << 31
# Above this many candidates ranks come from a sort, and below from comparing all pairs (no branch, and faster in a batch); so with sums.
_PAIRWISE = 64
# What a place further behind costs a remainder in a comparison: below what matters, above the rounding of numbers up to 1.
_TIED = 1e-15


def quantise(p: jax.Array, mask: jax.Array) -> jax.Array:
    """Numerators out of 2^31, u32[K], by largest remainder; every eligible candidate gets at least 1, the sum is exactly 2^31.

    `p` f64[K] >= 0 (rescaled to sum to one over `mask`; uniform where nothing is left of it), `mask` bool[K]. All zero where nothing is
    eligible. Largest error of a probability: (number of eligible + 1) / 2^31.
    """
    kept = jnp.where(mask, p.astype(jnp.float64), 0.0)
    total = jnp.sum(kept)
    # Whole numbers up to 2^31 are exact in float64, and no other type has to be converted to.
    eligible = jnp.sum(mask, dtype=jnp.float64)
    even = jnp.where(mask, 1.0, 0.0) / jnp.maximum(eligible, 1.0)
    shares = jnp.where((total > 0.0) & jnp.isfinite(total), kept / jnp.where(total > 0.0, total, 1.0), even)
    exact = shares * (DENOMINATOR - eligible)
    whole = jnp.floor(exact)
    numerators = jnp.where(mask, whole + 1.0, 0.0)
    # Fewer than the candidates, and as exact as a whole number.
    missing = (DENOMINATOR - jnp.sum(numerators)).astype(jnp.int32)
    extra = jnp.where(_rank_of_largest(jnp.where(mask, exact - whole, -1.0)) < missing, 1.0, 0.0)
    return jnp.where(mask, numerators + extra, 0.0).astype(jnp.uint32)


def pick(numerators: jax.Array, draw: jax.Array) -> jax.Array:
    """Index of the candidate that `draw`, uniform in [0, 2^31), falls on. The same integers give the same index on every platform."""
    return pick_index(jnp, numerators, draw).astype(jnp.int32)


def pick_index(xp: Any, numerators: Any, draw: Any) -> Any:
    """`pick` on numpy or JAX: how many running sums are not above the draw."""
    return xp.sum(_running_sums(xp, numerators) <= draw, dtype=xp.int32)


def _running_sums(xp: Any, numerators: Any) -> Any:
    """Their running sums, u32[K]. XLA's own take four steps where a sum over a triangle takes one."""
    count = numerators.shape[0]
    if xp is np or count > _PAIRWISE:
        return xp.cumsum(numerators, dtype=xp.uint32)
    return xp.sum(xp.where(np.tri(count, dtype=bool), numerators[None, :], np.uint32(0)), axis=1, dtype=xp.uint32)


def _rank_of_largest(values: jax.Array) -> jax.Array:
    """Rank of each value, 0 = largest, ties by index, i32[K]."""
    if values.shape[0] > _PAIRWISE:
        index = jnp.arange(values.shape[0], dtype=jnp.int32)
        return jnp.zeros_like(index).at[jnp.argsort(-values, stable=True)].set(index)
    # Ties by index, in one comparison: values within 1e-13 of each other count as tied. (Remainders are multiples of some 1e-16.)
    apart = values - _TIED * jnp.arange(values.shape[0], dtype=jnp.float64)
    # Counted in whole numbers: in float64 XLA writes all pairs to memory and adds them up in a second step.
    return jnp.sum(apart[None, :] > apart[:, None], axis=1, dtype=jnp.int32)
