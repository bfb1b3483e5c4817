"""Probability that each of several independent Beta arms is the largest, on one grid that they share.

    P(k wins) = integral of f_k(t) prod_{j != k} F_j(t) dt,   t = log(theta / (1 - theta))

On the log-odds every Beta density is smooth and has exponential tails. The grid is made of panels of 8 Gauss-Legendre nodes. Their
edges are quantiles of all arms' points together, so panels are narrow where arms are. A density is summed within its panel to give F
at the nodes, and no incomplete beta function is needed. The grid does not depend on who is eligible: it is laid once a snapshot.

Right to 1e-8 for up to 20 arms of up to 100,000 rows (measured by tests/bandits/test_beta_grid.py). Of hundreds of arms those that
are narrower than a panel share more evenly than their posteriors do; the probabilities still sum to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, polygamma

__all__ = ["BetaGrid", "GridScores", "beta_grid", "winners"]

_PANELS, _NODES = 128, 8
# Points that each arm puts on the axis: from 7 deviations below its mean to 7 above, and on to where its tails end.
_POINTS = np.linspace(-7.0, 7.0, 57)
# exp(-23) = 1e-10 is what is left of a tail beyond 23 / a (or b) more.
_TAIL = 23.0


class BetaGrid(NamedTuple):
    """Of each arm: `mean` and `scale` [A] of theta; `mass` [A, N] at each node, summing to one; `below` F [A, N] at each node."""

    mean: jax.Array
    scale: jax.Array
    mass: jax.Array
    below: jax.Array


class GridScores(NamedTuple):
    """Of each candidate: `mean` and `scale` [K] in units of reward; `mass` and `below` [K, N] as in BetaGrid."""

    mean: jax.Array
    scale: jax.Array
    mass: jax.Array
    below: jax.Array


def beta_grid(a: jax.Array, b: jax.Array) -> BetaGrid:
    """The grid of arms Beta(a, b), [A] each, > 0."""
    edges = _edges(a, b)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = 0.5 * (edges[1:] - edges[:-1])
    t = (edges[:-1] + half)[:, None] + half[:, None] * jnp.asarray(nodes)[None, :]
    # a log(theta) + b log(1 - theta), its constant left to the sum.
    log_density = a[:, None, None] * jax.nn.log_sigmoid(t)[None] + b[:, None, None] * jax.nn.log_sigmoid(-t)[None]
    density = jnp.exp(log_density - jnp.max(log_density, axis=(1, 2), keepdims=True)) * half[None, :, None]
    mass = density * jnp.asarray(weights)[None, None, :]
    total = jnp.sum(mass, axis=(1, 2), keepdims=True)
    of_panels = jnp.sum(mass, axis=2)
    before = jnp.cumsum(of_panels, axis=1) - of_panels
    below = before[:, :, None] + density @ jnp.asarray(_integration(nodes)).T
    flat = (a.shape[0], _PANELS * _NODES)
    mean = a / (a + b)
    scale = jnp.sqrt(mean * (1.0 - mean) / (a + b + 1.0))
    return BetaGrid(mean, scale, (mass / total).reshape(flat), jnp.clip(below / total, 0.0, 1.0).reshape(flat))


def winners(mass: jax.Array, below: jax.Array, mask: jax.Array) -> jax.Array:
    """Probability that each eligible arm is the largest, [K], zero outside `mask`; `mass` and `below` [K, N]."""
    # Where a product of tails underflows, or an arm's own tail does, that arm has no mass to win with: nothing is lost by the ratio.
    below = jnp.where(mask[:, None], jnp.maximum(below, jnp.finfo(below.dtype).tiny), 1.0)
    others = jnp.prod(below, axis=0)[None, :] / below
    wins = jnp.where(mask, jnp.sum(mass * others, axis=1), 0.0)
    total = jnp.sum(wins)
    even = jnp.where(mask, 1.0, 0.0) / jnp.maximum(jnp.sum(mask, dtype=mass.dtype), 1.0)
    return jnp.where(total > 0.0, wins / jnp.where(total > 0.0, total, 1.0), even)


def _edges(a: jax.Array, b: jax.Array) -> jax.Array:
    """Panel edges [PANELS + 1]: every so many-th of all arms' points, in order."""
    centre, spread = digamma(a) - digamma(b), jnp.sqrt(polygamma(1, a) + polygamma(1, b))
    points = centre[:, None] + spread[:, None] * jnp.asarray(_POINTS)[None, :]
    lower, upper = points[:, 0] - _TAIL / a, points[:, -1] + _TAIL / b
    steps = jnp.asarray(np.linspace(0.0, 1.0, 5)[:-1])[None, :]
    tails = [end[:, None] + (points[:, at] - end)[:, None] * steps for end, at in ((lower, 0), (upper, -1))]
    every = jnp.sort(jnp.concatenate([points, *tails], axis=1).ravel())
    places = jnp.linspace(0.0, every.shape[0] - 1.0, _PANELS + 1)
    return jnp.interp(places, jnp.arange(every.shape[0], dtype=jnp.float64), every)


def _integration(nodes: np.ndarray) -> np.ndarray:
    """S with (S f)_i = integral from -1 to node i of the polynomial through f at the nodes."""
    powers = np.arange(len(nodes))
    integrals = (nodes[:, None] ** (powers + 1) - (-1.0) ** (powers + 1)) / (powers + 1)
    return integrals @ np.linalg.inv(np.vander(nodes, increasing=True))
