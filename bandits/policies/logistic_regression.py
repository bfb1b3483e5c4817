"""Bayesian logistic regression for each action, learned batch by batch: Laplace's approximation, carried on as Gaussian sites.

    P(y = 1) = sigma(w_a . z),   w_a ~ N(mu_0, Lambda_0^-1),   z = (1, standardised context)

A batch moves the mode by Newton's method on (approximate posterior so far) x (likelihood of the batch). Each of its rows then stays as
the Gaussian site that its likelihood is at that mode: weight v = p (1 - p) and target t = w . z + (y - p) / v, so the sum of the sites
and the prior has its mean exactly at the mode (Spiegelhalter and Lauritzen 1990; Bishop 2006, 4.5; Chapelle and Li 2011 for bandits).
Sites are sums over rows of raw features, so standardisation and prior may follow the data after the fact:

- mu_0 = (b, 0, ..., 0), b the log-odds of all rows: an action without rows stands at the base rate, not at one half;
- Lambda_0 = diag(1, d, ..., d) / prior_scale^2: before any row the predicted log-odds vary as much as the intercept, whatever d is.

Rows of one batch are fitted together, those of earlier batches are not looked at again; so batches do not commute.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bandits.grouped import gram_by_group
from bandits.policy import Batch, Candidates, Dims

__all__ = ["LogisticParams", "LogisticScores", "LogisticState", "logistic_init", "logistic_prepare", "logistic_score", "logistic_update"]

# A step of Newton's method moves no row's log-odds by more: further out the curvature that it relied on is gone (p (1 - p) falls by
# 10 within 3). Far steps then need more iterations, and none diverges.
_LARGEST_STEP = 3.0
# A feature whose variance is below this share of its mean square is constant, as in the linear regression.
_CONSTANT = 1e-9


class LogisticState(NamedTuple):
    """Sums over rows of x = (1, raw context): `sites` v x x^T [A, d+1, d+1] and `shift` v t x [A, d+1] by action; of all actions
    `total` x [d+1], `square` x^2 [d+1] and `successes` y []."""

    sites: jax.Array
    shift: jax.Array
    total: jax.Array
    square: jax.Array
    successes: jax.Array


class LogisticParams(NamedTuple):
    """`centre` [d] and `inverse_spread` [d] standardise; `weights` [A+1, d+1]; `root` [A+1, d+1, d+1]: |root z| is the scale of the
    log-odds. Row A is the cold action: the prior."""

    centre: jax.Array
    inverse_spread: jax.Array
    weights: jax.Array
    root: jax.Array


class LogisticScores(NamedTuple):
    """f64[K] each. `mean`: expected reward; `scale`: its posterior standard deviation, to first order; `logit` and `logit_scale`:
    mean and standard deviation of the log-odds, which are Gaussian."""

    mean: jax.Array
    scale: jax.Array
    logit: jax.Array
    logit_scale: jax.Array


class _Gaussian(NamedTuple):
    """exp(-w.T precision w / 2 + shift . w) of each action, in standardised coordinates."""

    precision: jax.Array
    shift: jax.Array


def logistic_init(dims: Dims) -> LogisticState:
    """No rows."""
    size = dims.context + 1
    zeros = jnp.zeros((dims.actions, size), jnp.float64)
    return LogisticState(
        sites=jnp.zeros((dims.actions, size, size), jnp.float64),
        shift=zeros,
        total=jnp.zeros(size, jnp.float64),
        square=jnp.zeros(size, jnp.float64),
        successes=jnp.zeros((), jnp.float64),
    )


def logistic_update(state: LogisticState, batch: Batch, *, prior_scale: float, iterations: int) -> LogisticState:
    """The state with the sites of the batch's rows, at the mode that `iterations` steps of Newton's method reach.

    A reward is a share of success in [0, 1] and is clipped to it; a weight below 0 counts as 0, for a site cannot be taken back.
    """
    x = jnp.concatenate([jnp.ones_like(batch.reward)[:, None], batch.context], axis=1)
    weight, y = jnp.maximum(batch.weight, 0.0), jnp.clip(batch.reward, 0.0, 1.0)
    state = state._replace(
        total=state.total + weight @ x, square=state.square + weight @ x**2, successes=state.successes + jnp.sum(weight * y)
    )
    groups, change = state.shift.shape[0], _standardisation(state)
    z = x @ change.T
    before = _posterior(state, change, prior_scale)

    def newton(_: int, weights: jax.Array) -> jax.Array:
        residual, curvature = _at(z, weights, batch.action, y, weight)
        pull = jnp.zeros_like(weights).at[batch.action].add(z * residual[:, None])
        gradient = before.shift - jnp.einsum("aij,aj->ai", before.precision, weights) + pull
        step = _solved(_root(before.precision + gram_by_group(z, curvature, batch.action, groups=groups)), gradient)
        return weights + step * _shrink(z, step, batch.action)[:, None]

    mode = jax.lax.fori_loop(0, iterations, newton, _solved(_root(before.precision), before.shift))
    residual, curvature = _at(z, mode, batch.action, y, weight)
    target = curvature * jnp.sum(z * mode[batch.action], axis=1) + residual
    return state._replace(
        sites=state.sites + gram_by_group(x, curvature, batch.action, groups=groups),
        shift=state.shift.at[batch.action].add(x * target[:, None]),
    )


def logistic_prepare(state: LogisticState, *, prior_scale: float) -> LogisticParams:
    """Means and roots of every action and of the cold one."""
    cold = state._replace(
        sites=jnp.concatenate([state.sites, jnp.zeros_like(state.sites[:1])]),
        shift=jnp.concatenate([state.shift, jnp.zeros_like(state.shift[:1])]),
    )
    change = _standardisation(state)
    posterior = _posterior(cold, change, prior_scale)
    root = _root(posterior.precision)
    return LogisticParams(
        centre=state.total[1:] / jnp.maximum(state.total[0], 1.0),
        inverse_spread=jnp.diagonal(change)[1:],
        weights=_solved(root, posterior.shift),
        root=root,
    )


def logistic_score(params: LogisticParams, context: jax.Array, candidates: Candidates) -> LogisticScores:
    """Mean success of each candidate: sigma(m / sqrt(1 + pi s^2 / 8)) of log-odds N(m, s^2) (MacKay 1992; Bishop 2006, eq. 4.153)."""
    z = jnp.concatenate([jnp.ones(1, jnp.float64), (context - params.centre) * params.inverse_spread])
    logit = params.weights[candidates.action] @ z
    scale = jnp.linalg.norm(params.root[candidates.action] @ z, axis=-1)
    mean = jax.nn.sigmoid(logit / jnp.sqrt(1.0 + jnp.pi * scale**2 / 8.0))
    return LogisticScores(mean=mean, scale=mean * (1.0 - mean) * scale, logit=logit, logit_scale=scale)


def _standardisation(state: LogisticState) -> jax.Array:
    """T [d+1, d+1] with z = T x; its row is zero for a constant feature."""
    rows = jnp.maximum(state.total[0], 1.0)
    centre, second = state.total[1:] / rows, state.square[1:] / rows
    variance = second - centre**2
    varies = variance > _CONSTANT * second
    inverse_spread = jnp.where(varies, 1.0 / jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)
    size = state.total.shape[0]
    change = jnp.zeros((size, size), jnp.float64).at[0, 0].set(1.0)
    return change.at[1:, 0].set(-centre * inverse_spread).at[1:, 1:].set(jnp.diag(inverse_spread))


def _posterior(state: LogisticState, change: jax.Array, prior_scale: float) -> _Gaussian:
    """Prior times sites, in the coordinates z = T x."""
    size = change.shape[0]
    prior = jnp.full(size, max(size - 1, 1) / prior_scale**2, jnp.float64).at[0].set(1.0 / prior_scale**2)
    # Half a success and half a failure more than seen (Krichevsky and Trofimov), so that the base rate is never 0 or 1.
    base = jnp.log(state.successes + 0.5) - jnp.log(state.total[0] - state.successes + 0.5)
    sites = change[None] @ state.sites @ change.T[None]
    precision = 0.5 * (sites + jnp.swapaxes(sites, 1, 2)) + jnp.diag(prior)[None]
    shift = (state.shift @ change.T).at[:, 0].add(prior[0] * base)
    return _Gaussian(precision=precision, shift=shift)


def _root(precision: jax.Array) -> jax.Array:
    """R with R^T R = precision^-1, the inverse of the lower Cholesky factor, of each matrix.

    The one factorisation of its program at a time: on a host with few cores, jaxlib's batched Cholesky waits for threads of the pool
    that it runs in, and two of them side by side wait for ever (seen with jaxlib 0.10.2 on two cores).
    """
    factor = jnp.linalg.cholesky(precision)
    return jax.scipy.linalg.solve_triangular(factor, jnp.broadcast_to(jnp.eye(factor.shape[-1]), factor.shape), lower=True)


def _solved(root: jax.Array, shift: jax.Array) -> jax.Array:
    """precision^-1 shift of each matrix, from its root."""
    return jnp.einsum("aji,aj->ai", root, jnp.einsum("aij,aj->ai", root, shift))


def _at(z: jax.Array, weights: jax.Array, action: jax.Array, y: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted residual y - p and curvature p (1 - p) of each row, [n]."""
    p = jax.nn.sigmoid(jnp.sum(z * weights[action], axis=1))
    return weight * (y - p), weight * p * (1.0 - p)


def _shrink(z: jax.Array, step: jax.Array, action: jax.Array) -> jax.Array:
    """Factor [A] in (0, 1] that keeps every row's change of log-odds within the largest step."""
    moved = jnp.abs(jnp.sum(z * step[action], axis=1))
    largest = jnp.zeros(step.shape[0], jnp.float64).at[action].max(moved)
    return _LARGEST_STEP / jnp.maximum(largest, _LARGEST_STEP)
