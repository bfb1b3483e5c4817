"""One Bayesian linear regression behind all linear policies: parameters per action, shared ones, or both.

    y = m + theta_a . x + beta . u + noise        x own columns of the action's block, u columns that all actions share
    theta_a, beta | sigma^2 ~ N(0, sigma^2 Lambda^-1),   noise ~ N(0, sigma^2)

(normal-inverse-gamma; Bishop 2006, 3.3; both kinds of parameters together: the hybrid model of Li, Chu, Langford and Schapire 2010,
whose block elimination is used here.) Without common columns the actions are independent regressions; with one block for all actions
only beta tells them apart. What makes it work without hindsight:

- sigma^2 is estimated, pooled over the actions: one action alone has too few rows to know it;
- m, where an action without rows stands, is the mean of all rewards, so their origin does not matter;
- the prior's scale follows the number of columns, which are standardised (see `linear_design`), so that before any row the predicted
  part of a reward varies by SIGNAL times the noise, whatever their number and units; and of some scales below it the rows choose the one
  under which they were likeliest (the evidence; Bishop 2006, 3.5): where rewards are mostly noise, weights are believed small.

The state is a sum over rows, so batches commute and merge exactly, and a revised reward is the old row with weight -1 and the new one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.grouped import gram_by_group
from bandits.policies.linear_design import Design, Standard, change, standard_of, standardised
from bandits.policy import Batch, Candidates

__all__ = [
    "PRIOR_SHARES",
    "SIGNAL",
    "GaussianScores",
    "LinearParams",
    "LinearState",
    "Moments",
    "grown",
    "initial",
    "learned",
    "moments",
    "posterior",
]

#: Prior deviation of the predicted part of a reward by linear columns, in deviations of the noise. At 4 the columns are believed able to
#: explain 94 % of the variance: what no row contradicts is believed soon, and the rows take over after as many as there are columns.
SIGNAL = 4.0
# A product's weight is smaller a priori than that of the columns that it multiplies.
_OF_PRODUCTS = 0.5
#: Shares of the prior's scale among which the rows choose. On logs of classification sets the evidence lies at 0.5 to 1, on the mushroom
#: problem (a loss of 35 by the toss of a coin) at 0.25, by 200 nats.
PRIOR_SHARES = (1.0, 0.5, 0.25)
# Odds, as a logarithm, by which a smaller share must be likelier than the whole: 20 to 1, "strong" in Kass and Raftery (1995).
_STRONG = 3.0
# Rewards that differ by less, as a share of their squares, are all equal up to rounding: of them no prior can be likelier.
_ALIKE = 1e-12
# Pseudo-rows behind the pooled variance of rewards, which stands in for the noise until rows speak.
_NOISE_PSEUDO_ROWS = 1.0
# While all rewards are equal nothing is known of the noise. Scales then only compare actions, and their squares must not underflow.
_LEAST_NOISE = 1e-100
# Strips of a root's columns, and how wide one is at least. (At D = 65 two save a fourteenth of a decision in a batch; four no more.)
_STRIPS, _NARROWEST_STRIP = 2, 16
# Read only the candidates' matrices where the table is this many times larger than the candidate list; else one product over all.
_GATHER_ABOVE = 4


class GaussianScores(NamedTuple):
    """Posterior mean and standard deviation of each candidate's expected reward, [K]."""

    mean: jax.Array
    scale: jax.Array


class LinearState(NamedTuple):
    """Sums over rows of the raw columns, B blocks (one an action, or one for all), D own columns, p common ones.

    `own` x x^T [B, D, D]; `cross` x u^T [B, D, p]; `common` u u^T [p, p]; `own_moment` x y [B, D]; `common_moment` u y [p]; `square` y^2.
    """

    own: jax.Array
    cross: jax.Array
    common: jax.Array
    own_moment: jax.Array
    common_moment: jax.Array
    square: jax.Array


class LinearParams(NamedTuple):
    """The posterior on standardised columns. Where each action has its block, the last one is the cold action's: the prior.

    `centre` m []; `weights` theta [B, D]; `unit` |root x| the deviation of theta . x given beta, `unit` [], `root` a lower triangle
    [B, D, D] with entries in [-1, 1], f32, as strips of its columns without most of the zeros above (`_strips`); `bridge` [B, D, p], what
    theta moves by as beta moves; `common_weights` beta [p]; `common_root` [p, p], |common_root u| its deviation. (The root is what
    scoring reads most of. As a length, its product forgives the rounding of float32, about 1e-7 of a deviation; means are differences of
    large numbers, and stay in float64.)
    """

    standard: Standard
    centre: jax.Array
    weights: jax.Array
    unit: jax.Array
    root: tuple[jax.Array, ...]
    bridge: jax.Array
    common_weights: jax.Array
    common_root: jax.Array


class Moments(NamedTuple):
    """Of the candidates of one request: `mean` [K]; `own_scale` [K], deviation by the block alone; `loading` [K, p] on shared normals."""

    mean: jax.Array
    own_scale: jax.Array
    loading: jax.Array

    @property
    def scale(self) -> jax.Array:
        """Posterior standard deviation of each candidate's expected reward, [K]."""
        return jnp.sqrt(self.own_scale**2 + jnp.sum(self.loading**2, axis=1))


class _Sums(NamedTuple):
    """The state's sums on standardised columns, of rewards less their mean `centre`."""

    own: jax.Array
    cross: jax.Array
    common: jax.Array
    own_moment: jax.Array
    common_moment: jax.Array


def initial(design: Design, *, blocks: int) -> LinearState:
    """The state of no rows."""
    d, p = design.own, design.common
    shapes = ((blocks, d, d), (blocks, d, p), (p, p), (blocks, d), (p,), ())
    return LinearState(*(jnp.zeros(shape, jnp.float64) for shape in shapes))


def learned(design: Design, state: LinearState, batch: Batch, block: jax.Array) -> LinearState:
    """The state with the rows of a batch; `block` i32[n], rows of a block that the state lacks are left out."""
    raw = design.raw(batch.context, batch.features[:, : design.features])
    rows = jnp.concatenate([raw, batch.reward[:, None]], axis=1)
    sums = gram_by_group(rows, batch.weight, block, groups=state.own.shape[0])
    own, end = slice(design.own), slice(design.own, design.own + design.common)
    pooled = jnp.sum(sums, axis=0)
    new = LinearState(sums[:, own, own], sums[:, own, end], pooled[end, end], sums[:, own, -1], pooled[end, -1], pooled[-1, -1])
    return jax.tree.map(jnp.add, state, new)


def grown(state: LinearState, *, blocks: int) -> LinearState:
    """The state with room for `blocks` actions, >= those it has: new ones at the prior, what the others learned untouched."""
    room = blocks - state.own.shape[0]
    longer = (jnp.pad(leaf, ((0, room), *((0, 0),) * (leaf.ndim - 1))) for leaf in (state.own, state.cross, state.own_moment))
    own, cross, own_moment = longer
    return state._replace(own=own, cross=cross, own_moment=own_moment)


def posterior(design: Design, state: LinearState, *, prior_scale: float, cold: bool) -> LinearParams:
    """The posterior of a state; `cold` = append the block of an action without rows."""
    if cold:
        state = grown(state, blocks=state.own.shape[0] + 1)
    pooled = _pooled(state)
    rows = pooled[0, 0]
    centre = jnp.sum(state.own_moment[:, 0]) / jnp.maximum(rows, 1.0)
    standard = standard_of(design, pooled)
    sums = _standardised(design, state, standard, centre)
    spread = jnp.maximum(state.square - rows * centre**2, 0.0)
    share = jnp.where(spread > _ALIKE * state.square, _likeliest_share(design, sums, rows, spread, prior_scale), PRIOR_SHARES[0])
    own_prior, common_prior = _precision(design, prior_scale * share)
    inverse = _inverse_root(sums.own + jnp.diag(own_prior)[None])
    bridge, alone = _covariance_times(inverse, sums.cross), _covariance_times(inverse, sums.own_moment[:, :, None])[:, :, 0]
    # What the rows say of beta once every block has taken what it can explain (Schur complement).
    common = sums.common + jnp.diag(common_prior) - jnp.einsum("bdp,bdq->pq", sums.cross, bridge)
    common_inverse = _inverse_root(0.5 * (common + common.T))
    beta = common_inverse.T @ (common_inverse @ (sums.common_moment - jnp.einsum("bdp,bd->p", bridge, sums.own_moment)))
    weights = alone - bridge @ beta
    left = jnp.maximum(spread - jnp.sum(weights * sums.own_moment) - jnp.sum(beta * sums.common_moment), 0.0)
    noise = jnp.sqrt(_noise_variance(rows, spread, left))
    largest = jnp.max(jnp.abs(inverse))
    root = (inverse / largest).astype(jnp.float32)
    return LinearParams(standard, centre, weights, largest * noise, _strips(root), bridge, beta, common_inverse * noise)


def _likeliest_share(design: Design, sums: _Sums, rows: jax.Array, spread: jax.Array, prior_scale: float) -> jax.Array:
    """The one of PRIOR_SHARES under which the rows are likeliest; the first unless another is so by more than _STRONG."""
    shares = jnp.asarray(PRIOR_SHARES)
    # One after the other: factorisations side by side within a loop of loops can lock the CPU's thread pool (seen with jaxlib 0.10).
    evidence = jax.lax.map(lambda share: _evidence(design, sums, rows, spread, prior_scale * share), shares)
    return shares[jnp.argmax(evidence.at[0].add(_STRONG))]


def _evidence(design: Design, sums: _Sums, rows: jax.Array, spread: jax.Array, prior_scale: jax.Array) -> jax.Array:
    """Logarithm of the density of the rows under a prior, a Student t, up to a constant. Costs a factorisation, and no inverse."""
    own_prior, common_prior = _precision(design, prior_scale)
    root = jnp.linalg.cholesky(sums.own + jnp.diag(own_prior)[None])
    right = jnp.concatenate([sums.cross, sums.own_moment[:, :, None]], axis=2)
    solved = jax.scipy.linalg.solve_triangular(root, right, lower=True)
    cross, moment = solved[:, :, :-1], solved[:, :, -1]
    common = sums.common + jnp.diag(common_prior) - jnp.einsum("bdp,bdq->pq", cross, cross)
    common_root = jnp.linalg.cholesky(0.5 * (common + common.T))
    of_common = sums.common_moment - jnp.einsum("bdp,bd->p", cross, moment)
    explained = jnp.sum(moment**2) + jnp.sum(jax.scipy.linalg.solve_triangular(common_root, of_common, lower=True) ** 2)
    unexplained = _NOISE_PSEUDO_ROWS * spread / jnp.maximum(rows, 1.0) + jnp.maximum(spread - explained, 0.0)
    before = 0.5 * (root.shape[0] * jnp.sum(jnp.log(own_prior)) + jnp.sum(jnp.log(common_prior)))
    after = jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2))) + jnp.sum(jnp.log(jnp.diagonal(common_root)))
    surprise = 0.5 * (_NOISE_PSEUDO_ROWS + rows) * jnp.log(jnp.maximum(unexplained, jnp.finfo(spread.dtype).tiny))
    return before - after - surprise


def moments(design: Design, params: LinearParams, context: jax.Array, candidates: Candidates, block: jax.Array) -> Moments:
    """Of the candidates of a request; `block` i32[K] of each."""
    own, common = standardised(design, params.standard, context, candidates.features)
    if params.weights.shape[0] > _GATHER_ABOVE * block.shape[0]:
        params, block = _gathered(params, block), jnp.arange(block.shape[0], dtype=jnp.int32)
    mean = (params.weights @ own)[block] + common @ params.common_weights + params.centre
    own_scale = _own_scale(params, own)[block]
    unexplained = common - jnp.einsum("bdp,d->bp", params.bridge, own)[block]
    return Moments(mean=mean, own_scale=own_scale, loading=unexplained @ params.common_root.T)


def _strips(root: jax.Array) -> tuple[jax.Array, ...]:
    """Lower triangles [B, D, D] as strips [B, D - c, w] of w columns from c on; two strips hold 3/4 of the square."""
    return tuple(root[:, columns[0] :, columns[0] : columns[-1] + 1] for columns in _columns(root.shape[-1]))


def _columns(width: int) -> list[np.ndarray]:
    return np.array_split(np.arange(width), min(_STRIPS, max(width // _NARROWEST_STRIP, 1)))


def _own_scale(params: LinearParams, own: jax.Array) -> jax.Array:
    """Deviation of theta . x of each block given beta, f64[B]; `own` x [D]."""
    width = own.shape[0]
    largest = jnp.max(jnp.abs(own))
    x = (own / largest).astype(jnp.float32)
    product = jnp.zeros((params.weights.shape[0], width), jnp.float32)
    for columns, strip in zip(_columns(width), params.root, strict=True):
        part = x[columns[0] : columns[-1] + 1]
        # Written as x times the rows of all blocks: a batch of requests is then one product of matrices, laid out as it is read.
        found = jax.lax.dot_general(part, strip.reshape(-1, len(columns)), (((0,), (1,)), ((), ())))
        product = product.at[:, columns[0] :].add(found.reshape(-1, width - int(columns[0])))
    return params.unit * largest * jnp.linalg.norm(product, axis=-1).astype(jnp.float64)


def _gathered(params: LinearParams, block: jax.Array) -> LinearParams:
    root = tuple(strip[block] for strip in params.root)
    return params._replace(weights=params.weights[block], root=root, bridge=params.bridge[block])


def _pooled(state: LinearState) -> jax.Array:
    """Sums of v v^T over the rows of all blocks, [D + p, D + p]."""
    own, cross = jnp.sum(state.own, axis=0), jnp.sum(state.cross, axis=0)
    return jnp.block([[own, cross], [cross.T, state.common]])


def _standardised(design: Design, state: LinearState, standard: Standard, centre: jax.Array) -> _Sums:
    matrix, d = change(design, standard), design.own
    own_rows, common_rows = matrix[:d, :d], matrix[d:]
    both = jnp.concatenate([state.own, state.cross], axis=2)
    own = own_rows[None] @ state.own @ own_rows.T[None]
    all_rows = common_rows @ _pooled(state) @ common_rows.T
    own_moment = state.own_moment - centre * state.own[:, :, 0]
    common_moment = state.common_moment - centre * jnp.sum(state.cross[:, 0, :], axis=0)
    return _Sums(
        own=0.5 * (own + jnp.swapaxes(own, 1, 2)),
        cross=own_rows[None] @ both @ common_rows.T[None],
        common=0.5 * (all_rows + all_rows.T),
        own_moment=own_moment @ own_rows.T,
        common_moment=common_rows @ jnp.concatenate([jnp.sum(own_moment, axis=0), common_moment]),
    )


def _precision(design: Design, prior_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Diagonals of Lambda of the own and of the common columns: 1 for the intercept; each other column has its share of SIGNAL^2."""
    linear = max(design.own - 1 + design.common, 1) / SIGNAL**2
    each = jnp.full(design.own + design.common, linear, jnp.float64).at[design.pair_columns].divide(_OF_PRODUCTS**2).at[0].set(1.0)
    return each[: design.own] / prior_scale**2, each[design.own :] / prior_scale**2


def _inverse_root(precision: jax.Array) -> jax.Array:
    """R with R^T R the inverse of each matrix, [..., D, D]."""
    factor = jnp.linalg.cholesky(precision)
    whole = jnp.broadcast_to(jnp.eye(precision.shape[-1]), factor.shape)
    return jax.scipy.linalg.solve_triangular(factor, whole, lower=True)


def _covariance_times(inverse_root: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.swapaxes(inverse_root, 1, 2) @ (inverse_root @ right)


def _noise_variance(rows: jax.Array, spread: jax.Array, left: jax.Array) -> jax.Array:
    """Posterior mean of sigma^2, pooled: what the fit leaves, over the rows; 1 before any row. `spread`: the rewards' sum of squares."""
    variance = spread / jnp.maximum(rows, 1.0)
    estimate = (_NOISE_PSEUDO_ROWS * variance + left) / (_NOISE_PSEUDO_ROWS + rows)
    return jnp.where(rows > 0.0, jnp.maximum(estimate, _LEAST_NOISE), 1.0)
