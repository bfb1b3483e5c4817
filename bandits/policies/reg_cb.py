"""Elimination by confidence bounds over a regression: what may still be the best is played evenly.

    k survives while  mean_k + width scale_k >= max_j (mean_j - width scale_j)

(RegCB-elimination of Foster, Agarwal, Dudik, Luo and Schapire, "Practical contextual bandits with regression oracles", ICML 2018, with
the interval of the regression's posterior in place of the range of predictions over the version space.)
"""

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.linear_thompson import GaussianScores
from bandits.policies.regression import Regression, linear_regression
from bandits.policies.rules import even
from bandits.policy import Dims, Policy
from protos import config

__all__ = ["RegCbSettings", "reg_cb"]


class RegCbSettings(config.StrictModel):
    """Settings of `reg_cb`."""

    #: Half width of an interval in posterior standard deviations, > 0. The theory's log factors ask for several, and play evenly for
    #: long; the regression's noise holds what a line cannot say, so even 1 is wide (mean reward on digits 0.67, with 0.5 0.76).
    width: float = pydantic.Field(default=0.5, gt=0.0)
    #: How much larger than by default a weight of the regression may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)


def reg_cb(dims: Dims, *, width: float = 0.5, prior_scale: float = 1.0, regression: Regression = linear_regression) -> Policy:
    """Even over the candidates whose upper bound reaches the largest lower bound among those still eligible.

    `width` > 0, posterior standard deviations; `prior_scale` > 0 and `regression` make the model.
    """

    def choose(scores: GaussianScores, mask: jax.Array) -> jax.Array:
        bar = jnp.max(jnp.where(mask, scores.mean - width * scores.scale, -jnp.inf))
        return even(mask & (scores.mean + width * scores.scale >= bar))

    return regression(dims, prior_scale=prior_scale)._replace(choose=choose)
