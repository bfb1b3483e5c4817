"""Probability that each of several independent Gaussian arms is the largest, by one-dimensional quadrature on a grid they share.

    P(k wins) = integral of phi_k(t) prod_{j != k} Phi_j(t) dt

The integrand lives between `lower`, below which the largest arm is hardly ever found, and the largest upper end of the arms; an arm of
scale s that matters has all its mass within 2 TAIL s of there. So the grid is graded: t = start + c sinh(u), u even, c a few of the
finest scales that matter. At both ends the integrand vanishes with its derivatives, where midpoints converge exponentially, and spend
no nodes on the ends as Gauss's do. A first look at 8 points finds the start: where many arms together have left (of twenty equal arms
nearly half the range). 32 nodes are then right to 1e-6 while scales differ by up to 30, to 1e-4 while by up to 100, and to 6e-3 where
twenty narrow arms stand beside a hundred times wider one; 40 nodes to 2e-7, 5e-6 and 2e-3 (tests/bandits/test_win_probability.py).

Distances between arms are taken in their own dtype; the grid, the normal functions and the sums in float32. That moves a probability by
some 1e-7, and costs a fifth of the same in float64. Between two RPCs every reduction is a step of its own that costs, so there are few.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bandits.normal import density_and_distribution

__all__ = ["NODES", "win_probabilities"]

NODES = 32
# Where the start is looked for, in shares of the range: near its lower end for narrow arms beside a wide one, at regular steps for arms of
# one scale, which have left at 0.18 (two of them) to 0.47 (twenty).
_LOOKS = np.array([0.0045, 0.009, 0.03, 0.07, 0.18, 0.28, 0.38, 0.47], np.float32)
# An arm's ends: beyond them it has a share of Phi(-TAIL) = 1e-8.
_TAIL = 5.6
# Below the start the largest arm is found with a probability of at most this.
_MISSED = 3e-8
# Finest scales, up to where the grid is even; beyond, it thins out geometrically. (3 is best or nearly so for all families measured.)
_EVEN = 3.0
# An arm narrower than this share of the range (scales that differ by 300) is widened to it, which 32 nodes resolve to 2e-3, 40 to 3e-4.
# Two such arms that lie nearer to each other than that share more evenly than their posteriors do.
_NARROWEST = 3e-4
# Scale of all arms where none has variance, as a share of the largest mean: only exact ties are then shared.
_POINT = 1e-12
# The smallest scale, in units of the smallest number of the dtype: multiples of it within the tails are still exact.
_SMALLEST = 1e3
# Where a masked arm stands, in its own deviations below every node: it never wins, and hinders nobody.
_AWAY = 30.0
# Range over finest scale where nobody is eligible; any number will do that is no zero.
_NOBODY = 1e-30


def win_probabilities(mean: jax.Array, scale: jax.Array, mask: jax.Array, *, nodes: int = NODES) -> jax.Array:
    """Probability that each eligible arm is the largest, [K], zero outside `mask`, summing to one over it.

    `mean` [K] finite, `scale` [K] >= 0 (standard deviations), `mask` bool[K]. Arms that tie are shared equally.
    """
    largest = jnp.max(jnp.where(mask, mean, -jnp.inf))
    # Measured from the largest mean, so that narrow arms far from zero keep their digits.
    away = jnp.where(mask, mean - largest, 0.0)
    ends = jnp.stack([away - _TAIL * scale, away + _TAIL * scale])
    lower, upper = jnp.max(jnp.where(mask, ends, -jnp.inf), axis=1)
    point = jnp.maximum(_POINT * jnp.abs(largest), _SMALLEST * jnp.finfo(mean.dtype).tiny)
    narrowest = jnp.maximum(_NARROWEST * (upper - lower), point)
    scale = jnp.maximum(scale, narrowest)
    # What was widened reaches a little further.
    lower = lower - _TAIL * narrowest
    width = upper + _TAIL * narrowest - lower
    # z of an arm at `lower`, [K], the only place where large numbers are subtracted.
    first = jnp.where(mask, (lower - away) / scale, _AWAY).astype(jnp.float32)
    rate = jnp.where(mask, width / scale, 0.0).astype(jnp.float32)
    wins = jnp.where(mask, _wins(first, rate, nodes), 0.0).astype(mean.dtype)
    total = jnp.sum(wins)
    return wins / jnp.where(total > 0.0, total, 1.0)


def _wins(first: jax.Array, rate: jax.Array, nodes: int) -> jax.Array:
    """Win probabilities up to a common factor, f32[K]. At a share o of the range an arm's z is `first` + `rate` o."""
    _, below = density_and_distribution(first[:, None] + rate[:, None] * _LOOKS[None, :])
    start = jnp.max(jnp.where(jnp.prod(below, axis=0) <= _MISSED, _LOOKS, 0.0))
    # Of the arms that matter, whose upper end is not below the start.
    finest = jnp.max(jnp.where(first + rate * start <= _TAIL, rate, _NOBODY))
    offset, spacing = _graded(nodes, 1.0 - start, _EVEN / finest)
    density, below = density_and_distribution(first[:, None] + rate[:, None] * (start + offset)[None, :])
    # phi_k prod_{j != k} Phi_j = phi_k / Phi_k prod_j Phi_j
    return (density / below) @ (jnp.prod(below, axis=0) * spacing) * rate


def _graded(nodes: int, length: jax.Array, even: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Midpoints, f32[N], of a grid on [0, length] that is even up to `even`; and what each stands for, up to a common factor."""
    share = (np.arange(nodes, dtype=np.float32) + np.float32(0.5)) / np.float32(nodes)
    u = share * jnp.arcsinh(length / even)
    up, down = jnp.exp(u), jnp.exp(-u)
    return 0.5 * even * (up - down), up + down
