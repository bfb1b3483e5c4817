"""Probability that each of several independent Gaussian arms is the largest, by one-dimensional quadrature on a grid they share.

    P(k wins) = integral of phi_k(t) prod_{j != k} Phi_j(t) dt

The integrand lives between the largest lower end and the largest upper end of the arms, and an arm of scale s that matters has all
its mass within 2 TAIL s of the lower end. So the grid is graded: Gauss-Legendre in u with t = lower + a (exp(u) - 1), a the smallest
scale that matters. Arms whose scales differ by a factor of 100 are then resolved as well as equal ones (measured by
tests/bandits/test_win_probability.py).

The grid, the distances from it and the sums are in the dtype of the arms; the normal functions and their products, which cost nearly
all the time, in float32. In float64 that moves a probability by some 1e-8 and makes a slate three times cheaper.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bandits.normal import density_and_distribution

__all__ = ["NODES", "win_probabilities"]

NODES = 64
# Below lower = max(mean - TAIL scale) the largest arm is found with probability < Phi(-TAIL) = 1e-8.
_TAIL = 5.6
# An arm narrower than this share of the range (scales that differ by 900) is widened to it: 64 nodes resolve that to 3e-4, and no less
# (a share of 1e-5 is off by 2e-3). Two such arms that lie nearer to each other than that share more evenly than their posteriors do.
_NARROWEST = 1e-4
# Scale of all arms where none has variance, as a share of the largest mean: only exact ties are then shared.
_POINT = 1e-12
# The smallest scale, in units of the smallest number of the dtype: multiples of it within the tails are still exact.
_SMALLEST = 1e3


def win_probabilities(mean: jax.Array, scale: jax.Array, mask: jax.Array, *, nodes: int = NODES) -> jax.Array:
    """Probability that each eligible arm is the largest, [K], zero outside `mask`, summing to one over it.

    `mean` [K] finite, `scale` [K] >= 0 (standard deviations), `mask` bool[K]. Arms that tie are shared equally.
    """
    largest = jnp.max(jnp.where(mask, mean, -jnp.inf))
    # Measured from the largest mean, so that narrow arms far from zero keep their digits.
    mean = jnp.where(mask, mean - largest, 0.0)
    scale = _positive(mean, scale, mask, largest)
    lower, upper = _range(mean, scale, mask)
    matters = mask & (mean + _TAIL * scale >= lower)
    finest = jnp.min(jnp.where(matters, scale, jnp.inf))
    finest = jnp.where(jnp.isfinite(finest), finest, jnp.ones_like(finest))
    offset, weight = _graded_grid((upper - lower) / finest, nodes)
    z = (offset[None, :] * finest + (lower - mean)[:, None]) / scale[:, None]
    density, below = density_and_distribution(z.astype(jnp.float32))
    below = jnp.where(mask[:, None], below, 1.0)
    others = jnp.prod(below, axis=0)[None, :] / below
    wins = jnp.where(mask, (density * others).astype(mean.dtype) @ weight * (finest / scale), 0.0)
    total = jnp.sum(wins)
    return wins / jnp.where(total > 0.0, total, 1.0)


def _range(mean: jax.Array, scale: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the largest arm can be: [lower, upper]; zero where nothing is eligible."""
    lower = jnp.max(jnp.where(mask, mean - _TAIL * scale, -jnp.inf))
    upper = jnp.max(jnp.where(mask, mean + _TAIL * scale, -jnp.inf))
    any_left = jnp.any(mask)
    return jnp.where(any_left, lower, 0.0), jnp.where(any_left, upper, 1.0)


def _positive(mean: jax.Array, scale: jax.Array, mask: jax.Array, largest: jax.Array) -> jax.Array:
    """The scales, none of them zero, and those of masked arms one; `mean` counts from `largest`."""
    lower, upper = _range(mean, scale, mask)
    point = jnp.maximum(_POINT * jnp.where(jnp.any(mask), jnp.abs(largest), 0.0), _SMALLEST * jnp.finfo(mean.dtype).tiny)
    return jnp.where(mask, jnp.maximum(scale, jnp.maximum(_NARROWEST * (upper - lower), point)), 1.0)


def _graded_grid(length: jax.Array, nodes: int) -> tuple[jax.Array, jax.Array]:
    """Nodes in [0, length] that thin out geometrically from 0, and their weights; unit: the finest scale."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    span = jnp.log1p(length)
    u = 0.5 * span * jnp.asarray(x + 1.0, length.dtype)
    return jnp.expm1(u), 0.5 * span * jnp.asarray(w, length.dtype) * jnp.exp(u)
