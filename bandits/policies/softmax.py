"""Boltzmann exploration over a regression; its slates are Plackett-Luce."""

from typing import NamedTuple

import jax
import pydantic

from bandits.policies.regression import Explored, Regression, RewardMoments, linear_regression, merge_explored, reward_spread, with_moments
from bandits.policies.rules import boltzmann
from bandits.policy import Batch, Candidates, Dims, Params, Policy
from protos import config

__all__ = ["SoftmaxScores", "SoftmaxSettings", "softmax"]


class SoftmaxSettings(config.StrictModel):
    """Settings of `softmax`."""

    #: Standard deviations of the reward that multiply a candidate's odds by e, > 0. Smaller explores less.
    temperature: float = pydantic.Field(default=0.2, gt=0.0)
    #: How much larger than by default a weight of the regression may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)


class SoftmaxScores(NamedTuple):
    """`mean` and `scale` f64[K] of the regression; `logit` f64[K] = mean over temperature."""

    mean: jax.Array
    scale: jax.Array
    logit: jax.Array


class _Params(NamedTuple):
    regression: Params
    spread: jax.Array


def softmax(dims: Dims, *, temperature: float = 0.2, prior_scale: float = 1.0, regression: Regression = linear_regression) -> Policy:
    """p_k = exp(l_k) / sum_j exp(l_j),  l_k = mean_k / (temperature sd), sd of the rewards seen (Sutton and Barto 2018, 2.8).

    `temperature` > 0, in standard deviations of the reward, so that its unit does not matter; `prior_scale` > 0 and `regression` make
    the model.
    """
    model = regression(dims, prior_scale=prior_scale)

    def init() -> Explored:
        return Explored(regression=model.init(), moments=RewardMoments.zero())

    def update(state: Explored, batch: Batch) -> Explored:
        return with_moments(model, state, batch)

    def prepare(state: Explored) -> _Params:
        return _Params(regression=model.prepare(state.regression), spread=reward_spread(state.moments))

    def score(params: _Params, context: jax.Array, candidates: Candidates, key: jax.Array) -> SoftmaxScores:
        predicted = model.score(params.regression, context, candidates, key)
        return SoftmaxScores(mean=predicted.mean, scale=predicted.scale, logit=predicted.mean / (temperature * params.spread))

    def choose(scores: SoftmaxScores, mask: jax.Array) -> jax.Array:
        return boltzmann(scores.logit, mask)

    def merge(left: Explored, right: Explored) -> Explored:
        return merge_explored(model, left, right)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose, merge=merge if model.merge else None)
