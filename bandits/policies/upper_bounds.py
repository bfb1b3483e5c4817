"""UCB1 and KL-UCB: the action whose mean reward could be the highest, whatever the context.

    UCB1     index_a = s_a / n_a + sqrt(2 ln N / n_a)                          (Auer, Cesa-Bianchi and Fischer 2002, figure 1)
    KL-UCB   index_a = max {q : n_a kl(s_a / n_a, q) <= ln N}                  (Garivier and Cappe, COLT 2011, with their c = 0)

n_a rows of total reward s_a between 0 and 1, N rows in all, kl(p, q) = p ln(p/q) + (1-p) ln((1-p)/(1-q)). An action without rows comes
first. Rewards on another range are mapped to [0, 1] by `reward_low` and `reward_high`; both bounds hold for any reward within it. The
rules are deterministic: what is logged is the floor's mixture.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bandits.policies.arm_sums import ArmParams, ArmSums, no_rows, reward_range, with_cold, with_rows
from bandits.policies.rules import greedy
from bandits.policy import Batch, Candidates, Dims, Policy, added

__all__ = ["kl_ucb", "ucb1"]

# Halvings of [mean, 1]: the last is below the spacing of float64 numbers near one.
_HALVINGS = 52
# Index of an action without rows: above every bound, which is at most 1 + sqrt(2 ln N).
_FIRST = 1e6


class BoundScores(NamedTuple):
    """`mean` and `scale` [K] (bound less mean), units of reward; `index` [K], what is maximised."""

    mean: jax.Array
    scale: jax.Array
    index: jax.Array


def ucb1(dims: Dims, *, reward_low: float = 0.0, reward_high: float = 1.0) -> Policy:
    """UCB1: mean and a bound that holds for any reward in its range, whatever the context.

    Raises PolicyError unless reward_low < reward_high.
    """
    return _optimist(dims, lambda mean, level: mean + jnp.sqrt(2.0 * level), reward_low, reward_high)


def kl_ucb(dims: Dims, *, reward_low: float = 0.0, reward_high: float = 1.0) -> Policy:
    """KL-UCB: as `ucb1`, with a bound that is tighter where rewards are rare. Raises PolicyError unless reward_low < reward_high."""
    return _optimist(dims, _kl_bound, reward_low, reward_high)


def _optimist(dims: Dims, bound: Callable[[jax.Array, jax.Array], jax.Array], reward_low: float, reward_high: float) -> Policy:
    """`bound(mean, ln N / n)` of rewards between 0 and 1."""
    rewards = reward_range(reward_low, reward_high)

    def init() -> ArmSums:
        return no_rows(dims)

    def update(state: ArmSums, batch: Batch) -> ArmSums:
        return with_rows(state, batch, rewards)

    def prepare(state: ArmSums) -> ArmParams:
        rows, total = jnp.sum(state.rows), jnp.sum(state.total)
        arms = with_cold(state)
        tried = arms.rows > 0.0
        safe = jnp.where(tried, arms.rows, 1.0)
        of_all = jnp.where(rows > 0.0, total / jnp.where(rows > 0.0, rows, 1.0), 0.0)
        mean = jnp.where(tried, arms.total / safe, of_all)
        upper = jnp.where(tried, bound(mean, jnp.log(jnp.maximum(rows, 1.0)) / safe), _FIRST)
        scale = jnp.where(tried, upper - mean, 1.0)
        return ArmParams(mean=rewards.reward(mean), scale=rewards.width * jnp.maximum(scale, 0.0), index=upper)

    def score(params: ArmParams, context: jax.Array, candidates: Candidates, key: jax.Array) -> BoundScores:
        return BoundScores(*(leaf[candidates.action] for leaf in params))

    def choose(scores: BoundScores, mask: jax.Array) -> jax.Array:
        return greedy(scores.index, mask)

    return Policy(init=init, update=update, prepare=prepare, score=score, choose=choose, merge=added)


def _kl_bound(mean: jax.Array, level: jax.Array) -> jax.Array:
    """The largest q in [mean, 1] with kl(mean, q) <= level, by bisection."""
    mean = jnp.clip(mean, 0.0, 1.0)

    def halved(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        within = _kl(mean, middle) <= level
        return jnp.where(within, middle, low), jnp.where(within, high, middle)

    return jax.lax.fori_loop(0, _HALVINGS, halved, (mean, jnp.ones_like(mean)))[0]


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """kl(p, q) of Bernoulli distributions; 0 ln 0 = 0."""
    return jax.scipy.special.rel_entr(p, q) + jax.scipy.special.rel_entr(1.0 - p, 1.0 - q)
