"""Beta-Bernoulli Thompson sampling: a success rate for each action, whatever the context.

    theta_a ~ Beta(c m + s_a, c (1 - m) + n_a - s_a),   p_a = P(theta_a is the largest)

(Thompson 1933; Chapelle and Li, "An empirical evaluation of Thompson sampling", NIPS 2011.) n_a rows of total s_a; c pseudo-rows at the
success rate m of all actions, so an action without rows is neither the best nor the worst where successes are rare; Beta(1, 1) before
any row. A reward r between 0 and 1 counts as r successes and 1 - r failures; a row of weight w as w rows.

The win probabilities come from `beta_grid`, laid once a snapshot.
"""

import jax
import jax.numpy as jnp
import pydantic

from bandits.policies.arm_sums import ArmSums, RangeSettings, no_rows, reward_range, with_cold, with_rows
from bandits.policies.beta_grid import BetaGrid, GridScores, beta_grid, winners
from bandits.policy import Batch, Candidates, Dims, Policy, added

__all__ = ["BetaBernoulliSettings", "beta_bernoulli"]

# Least of either parameter: weights below zero and rounding could leave none.
_LEAST = 1e-3


class BetaBernoulliSettings(RangeSettings):
    """Settings of `beta_bernoulli`. A reward between the two ends counts as a part of a success."""

    #: Pseudo-rows of an action at the success rate of all, > 0.
    prior_rows: float = pydantic.Field(default=2.0, gt=0.0)


def beta_bernoulli(dims: Dims, *, reward_low: float = 0.0, reward_high: float = 1.0, prior_rows: float = 2.0) -> Policy:
    """A success rate per action, whatever the context; win probabilities on a grid.

    Settings as in `BetaBernoulliSettings`. Raises PolicyError unless reward_low < reward_high.
    """
    rewards = reward_range(reward_low, reward_high)

    def init() -> ArmSums:
        return no_rows(dims)

    def update(state: ArmSums, batch: Batch) -> ArmSums:
        return with_rows(state, batch, rewards)

    def prepare(state: ArmSums) -> BetaGrid:
        # As Beta(1, 1) before any row: one success and one failure of all actions together.
        rate = (jnp.sum(state.total) + 1.0) / (jnp.sum(state.rows) + 2.0)
        arms = with_cold(state)
        successes = prior_rows * rate + arms.total
        failures = prior_rows * (1.0 - rate) + arms.rows - arms.total
        return beta_grid(jnp.maximum(successes, _LEAST), jnp.maximum(failures, _LEAST))

    def score(params: BetaGrid, context: jax.Array, candidates: Candidates, key: jax.Array) -> GridScores:
        of_candidates = BetaGrid(*(leaf[candidates.action] for leaf in params))
        mean, scale = rewards.reward(of_candidates.mean), rewards.width * of_candidates.scale
        return GridScores(mean=mean, scale=scale, mass=of_candidates.mass, below=of_candidates.below)

    def choose(scores: GridScores, mask: jax.Array) -> jax.Array:
        return winners(scores.mass, scores.below, mask)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose, merge=added)
