"""Probability that each of several independent Gaussian arms is the largest, by one-dimensional quadrature on a grid they share.

    P(k wins) = integral of phi_k(t) prod_{j != k} Phi_j(t) dt

The integrand lives between `lower`, below which the largest arm is hardly ever found, and the largest upper end of the arms; an arm of
scale s that matters has all its mass within 2 TAIL s of there. So the grid is graded: t = lower + c sinh(u), u even, c a few of the
finest scales that matter. At both ends the integrand vanishes with its derivatives, where midpoints converge exponentially, and spend
no nodes on the ends as Gauss's do. A first look at 8 points moves `lower` up to where many arms together have left (of twenty equal
arms nearly half the range). 40 nodes are then right to 1e-6 while scales differ by up to 100, to 1e-3 where twenty narrow arms stand
beside a hundred times wider one (measured by tests/bandits/test_win_probability.py).

Distances between arms are taken in their own dtype; the grid, the normal functions and the sums in float32. That moves a probability by
some 1e-7, and costs a fifth of the same in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bandits.normal import density_and_distribution

__all__ = ["NODES", "win_probabilities"]

NODES = 40
# Points of the first look.
_LOOKS = 8
# An arm's ends: beyond them it has a share of Phi(-TAIL) = 1e-8.
_TAIL = 5.6
# Below `lower` the largest arm is found with a probability of at most this.
_MISSED = 3e-8
# Finest scales, up to where the grid is even; beyond, it thins out geometrically. (3 is best or nearly so for all families measured.)
_EVEN = 3.0
# An arm narrower than this share of the range (scales that differ by 900) is widened to it: the nodes resolve that to 3e-4, and no less
# (a share of 1e-5 is off by 2e-3). Two such arms that lie nearer to each other than that share more evenly than their posteriors do.
_NARROWEST = 1e-4
# Scale of all arms where none has variance, as a share of the largest mean: only exact ties are then shared.
_POINT = 1e-12
# The smallest scale, in units of the smallest number of the dtype: multiples of it within the tails are still exact.
_SMALLEST = 1e3
# Where a masked arm stands, in its own deviations below every node: it never wins, and hinders nobody.
_AWAY = 30.0


def win_probabilities(mean: jax.Array, scale: jax.Array, mask: jax.Array, *, nodes: int = NODES) -> jax.Array:
    """Probability that each eligible arm is the largest, [K], zero outside `mask`, summing to one over it.

    `mean` [K] finite, `scale` [K] >= 0 (standard deviations), `mask` bool[K]. Arms that tie are shared equally.
    """
    largest = jnp.max(jnp.where(mask, mean, -jnp.inf))
    # Measured from the largest mean, so that narrow arms far from zero keep their digits.
    away = jnp.where(mask, mean - largest, 0.0)
    scale = _positive(away, scale, mask, largest)
    lower, upper = _range(away, scale, mask)
    # z of an arm at `lower`, [K], the only place where large numbers are subtracted.
    first = jnp.where(mask, (lower - away) / scale, _AWAY).astype(jnp.float32)
    finest = _finest(scale, first)
    rate = (finest / scale).astype(jnp.float32)
    wins = _wins(first, rate, ((upper - lower) / finest).astype(jnp.float32), nodes)
    wins = jnp.where(mask, wins, 0.0).astype(mean.dtype)
    total = jnp.sum(wins)
    return wins / jnp.where(total > 0.0, total, 1.0)


def _wins(first: jax.Array, rate: jax.Array, length: jax.Array, nodes: int) -> jax.Array:
    """Win probabilities up to a common factor, f32[K]. An arm's z is `first` + `rate` o at a distance o in [0, length]; rate <= 1."""
    looks = _graded(np.arange(_LOOKS) / _LOOKS, length, jnp.float32(_EVEN))[0]
    _, below = density_and_distribution(first[:, None] + rate[:, None] * looks[None, :])
    start = jnp.max(jnp.where(jnp.prod(below, axis=0) <= _MISSED, looks, 0.0))
    even = _EVEN * _finest(1.0 / rate, first + rate * start)
    offset, spacing = _graded((np.arange(nodes) + 0.5) / nodes, length - start, even)
    density, below = density_and_distribution(first[:, None] + rate[:, None] * (start + offset)[None, :])
    # phi_k prod_{j != k} Phi_j = phi_k / Phi_k prod_j Phi_j
    return (density / below) @ (jnp.prod(below, axis=0) * spacing) * rate


def _graded(share: np.ndarray, length: jax.Array, even: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points at the given shares, f64[N] in [0, 1), of a grid on [0, length] that is even up to `even`; and what each stands for."""
    u = jnp.asarray(share, jnp.float32) * jnp.arcsinh(length / even)
    up, down = jnp.exp(u), jnp.exp(-u)
    return 0.5 * even * (up - down), up + down


def _finest(scale: jax.Array, z: jax.Array) -> jax.Array:
    """The smallest scale of the arms that matter, whose upper end is not below; `z` of each at the lower end. 1 where there is none."""
    finest = jnp.min(jnp.where(z <= _TAIL, scale, jnp.inf))
    return jnp.where(jnp.isfinite(finest), finest, jnp.ones_like(finest))


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
