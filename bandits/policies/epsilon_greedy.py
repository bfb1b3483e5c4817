"""Epsilon-greedy over a regression: the largest posterior mean, and now and then any."""

import jax
import pydantic

from bandits.policies.linear_thompson import GaussianScores
from bandits.policies.regression import Regression, linear_regression
from bandits.policies.rules import even, greedy
from bandits.policy import Dims, Policy
from protos import config

__all__ = ["EpsilonGreedySettings", "epsilon_greedy"]


class EpsilonGreedySettings(config.StrictModel):
    """Settings of `epsilon_greedy`."""

    #: Share of draws that are even over the eligible candidates, in [0, 1]; the task's floor comes on top.
    epsilon: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    #: How much larger than by default a weight of the regression may be a priori, > 0.
    prior_scale: float = pydantic.Field(default=1.0, gt=0.0)


def epsilon_greedy(dims: Dims, *, epsilon: float = 0.05, prior_scale: float = 1.0, regression: Regression = linear_regression) -> Policy:
    """p_k = (1 - epsilon) [k has the largest mean] + epsilon / K, K = eligible candidates; ties share (Sutton and Barto 2018, 2.2).

    `epsilon` in [0, 1]; `prior_scale` > 0 and `regression` make the model.
    """

    def choose(scores: GaussianScores, mask: jax.Array) -> jax.Array:
        return (1.0 - epsilon) * greedy(scores.mean, mask) + epsilon * even(mask)

    return regression(dims, prior_scale=prior_scale)._replace(choose=choose)
