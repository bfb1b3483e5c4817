"""Gaussian Thompson sampling: a mean reward for each action, whatever the context, with an unknown variance that all actions share.

    mu_a | sigma^2 ~ N(m, sigma^2 prior_scale^2),   y ~ N(mu_a, sigma^2),   p_a = P(mu_a's posterior draw is the largest)

(Honda and Takemura, "Optimality of Thompson sampling for Gaussian bandits depends on priors", AISTATS 2014, for the setting.) It is
`linear_posterior` with the intercept alone: m is the mean of all rewards, sigma^2 is estimated from what the means leave, pooled.
"""

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.linear_posterior import GaussianScores, LinearParams, LinearState
from bandits.policies.linear_thompson import linear_thompson
from bandits.policy import Batch, Candidates, Dims, Policy
from bandits.win_probability import NODES
from protos import config

__all__ = ["GaussianThompsonSettings", "gaussian_thompson"]


class GaussianThompsonSettings(config.StrictModel):
    """Settings of `gaussian_thompson`."""

    #: Prior deviation of an action's mean in deviations of the noise, > 0: 1 / prior_scale^2 pseudo-rows at the mean of all rewards.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)
    #: Nodes of the quadrature, 32..256.
    nodes: int = pydantic.Field(default=NODES, ge=32, le=256)


def gaussian_thompson(dims: Dims, *, prior_scale: float = 1.0, nodes: int = NODES) -> Policy:
    """A mean reward per action, whatever the context, with an unknown variance that all share.

    Settings as in `GaussianThompsonSettings`.
    """
    means = linear_thompson(dims._replace(context=0), prior_scale=prior_scale, basis="linear", exploration=1.0, nodes=nodes)

    def update(state: LinearState, batch: Batch) -> LinearState:
        return means.update(state, batch._replace(context=batch.context[:, :0]))

    def score(params: LinearParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> GaussianScores:
        return means.score(params, jnp.zeros(0, jnp.float64), candidates, key)

    return means._replace(update=update, score=score)
