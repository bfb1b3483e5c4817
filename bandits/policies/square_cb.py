"""SquareCB: a regression's gaps to the best candidate become probabilities, more sharply the more rows there are.

    p_k = 1 / (K + gamma_t (max_j mean_j - mean_k)),  the best gets what is left;   gamma_t = gamma_scale sqrt(t) / sd

(Foster and Rakhlin, "Beyond UCB: optimal and efficient contextual bandits with regression oracles", ICML 2020, algorithm 1, whose
gamma = sqrt(K T / regret of the oracle) is the square-root schedule for a horizon that nobody knows.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.regression import Explored, Regression, RewardMoments, linear_regression, merge_explored, reward_spread, with_moments
from bandits.policies.rules import inverse_gap
from bandits.policy import Batch, Candidates, Dims, Params, Policy
from protos import config

__all__ = ["SquareCbScores", "SquareCbSettings", "square_cb"]


class SquareCbSettings(config.StrictModel):
    """Settings of `square_cb`."""

    #: gamma after one row, per standard deviation of the reward, > 0. Larger explores less.
    gamma_scale: float = pydantic.Field(default=4.0, gt=0.0)
    #: How much larger than by default a weight of the regression may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)


class SquareCbScores(NamedTuple):
    """`mean` and `scale` f64[K] of the regression; `gamma` f64[], per unit of reward."""

    mean: jax.Array
    scale: jax.Array
    gamma: jax.Array


class _Params(NamedTuple):
    regression: Params
    gamma: jax.Array


def square_cb(dims: Dims, *, gamma_scale: float = 4.0, prior_scale: float = 1.0, regression: Regression = linear_regression) -> Policy:
    """Inverse gap weighting over a regression; gamma_t follows the rows seen (t) and the standard deviation of their rewards (sd).

    `gamma_scale` > 0; `prior_scale` > 0 and `regression` make the model.
    """
    model = regression(dims, prior_scale=prior_scale)

    def init() -> Explored:
        return Explored(regression=model.init(), moments=RewardMoments.zero())

    def update(state: Explored, batch: Batch) -> Explored:
        return with_moments(model, state, batch)

    def prepare(state: Explored) -> _Params:
        rows = jnp.maximum(state.moments.rows, 0.0)
        return _Params(regression=model.prepare(state.regression), gamma=gamma_scale * jnp.sqrt(rows) / reward_spread(state.moments))

    def score(params: _Params, context: jax.Array, candidates: Candidates, key: jax.Array) -> SquareCbScores:
        predicted = model.score(params.regression, context, candidates, key)
        return SquareCbScores(mean=predicted.mean, scale=predicted.scale, gamma=params.gamma)

    def choose(scores: SquareCbScores, mask: jax.Array) -> jax.Array:
        return inverse_gap(scores.mean, scores.gamma, mask)

    def merge(left: Explored, right: Explored) -> Explored:
        return merge_explored(model, left, right)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose, merge=merge if model.merge else None)
