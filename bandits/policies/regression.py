"""The regression that model-agnostic policies explore with: any policy whose scores say a mean and a scale."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bandits.policies.linear_thompson import linear_thompson
from bandits.policy import Batch, Dims, Policy, State, added

__all__ = ["Explored", "Regression", "RewardMoments", "linear_regression", "merge_explored", "reward_spread", "with_moments"]


class Regression(Protocol):
    """Makes the policy whose `init`, `update`, `prepare`, `score` and `merge` are the regression; its `choose` is left aside."""

    def __call__(self, dims: Dims, /, *, prior_scale: float) -> Policy: ...


def linear_regression(dims: Dims, /, *, prior_scale: float) -> Policy:
    """A Bayesian linear regression for each action, the noise estimated (see `linear_thompson`)."""
    return linear_thompson(dims, prior_scale=prior_scale)


class RewardMoments(NamedTuple):
    """Sums over rows: `rows` f64[], `total` of rewards f64[], `square` of their squares f64[]."""

    rows: jax.Array
    total: jax.Array
    square: jax.Array

    @classmethod
    def zero(cls) -> "RewardMoments":
        """Of no rows."""
        return cls(*(jnp.zeros((), jnp.float64) for _ in cls._fields))

    def plus(self, batch: Batch) -> "RewardMoments":
        """With the rows of a batch."""
        rows, total, square = (jnp.sum(batch.weight * batch.reward**power) for power in (0, 1, 2))
        return RewardMoments(rows=self.rows + rows, total=self.total + total, square=self.square + square)


def reward_spread(moments: RewardMoments) -> jax.Array:
    """Standard deviation of the rewards, f64[], units of reward; 1 where they have not varied yet."""
    rows = jnp.maximum(moments.rows, 1.0)
    variance = moments.square / rows - (moments.total / rows) ** 2
    varies = variance > jnp.finfo(jnp.float64).eps * moments.square / rows
    return jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1.0)), 1.0)


class Explored(NamedTuple):
    """State of a regression with the moments of all rewards beside it."""

    regression: State
    moments: RewardMoments


def with_moments(model: Policy, state: Explored, batch: Batch) -> Explored:
    """Both after the rows of a batch."""
    return Explored(regression=model.update(state.regression, batch), moments=state.moments.plus(batch))


def merge_explored(model: Policy, left: Explored, right: Explored) -> Explored:
    """Both of all rows of two states; `model.merge` must not be None."""
    assert model.merge is not None
    return Explored(regression=model.merge(left.regression, right.regression), moments=added(left.moments, right.moments))
