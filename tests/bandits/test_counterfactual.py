"""Off-policy learning: its objective against numpy, what propensities are for, and a logger whose favourite is the wrong action."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.catalog import PolicySpec
from bandits.policies.counterfactual import Objective, Rows, counterfactual, loss
from bandits.policy import Batch, Candidates, Dims
from protos.errors import ConfigError

DIMS = Dims(actions=3, context=2, features=0)
EVERY = Candidates.of(jnp.arange(DIMS.actions + 1, dtype=jnp.int32))
ROWS = 2000


def slow_loss(theta: np.ndarray, rows: Rows, objective: Objective) -> float:
    """The docstring's equation, row by row."""
    gains, weights = [], []
    for z, action, residual, weight, propensity, model in zip(*map(np.asarray, rows), strict=True):
        logits = theta @ z
        pi = np.exp(logits) / np.exp(logits).sum()
        gains.append(pi @ model + residual * min(pi[action] / propensity, objective.largest_weight))
        weights.append(weight)
    n, gain, weight = sum(weights), np.array(gains), np.array(weights)
    mean = (weight * gain).sum() / n
    variance = (weight * (gain - mean) ** 2).sum() / n
    return -mean + objective.variance_penalty * np.sqrt(variance / n) + objective.l2 * (theta**2).sum() / n


@pytest.mark.parametrize("objective", [Objective(0.0, 1e9, 0.0), Objective(2.0, 1.5, 3.0)])
def test_the_loss_is_its_equation_row_by_row(objective: Objective) -> None:
    rng = np.random.default_rng(0)
    theta, n = rng.normal(size=(3, 3)), 40
    rows = Rows(
        z=rng.normal(size=(n, 3)),
        action=rng.integers(0, 3, n).astype(np.int32),
        residual=rng.normal(size=n),
        weight=rng.choice([0.0, 1.0, 2.0], n),
        propensity=rng.uniform(0.05, 1.0, n),
        model=rng.normal(size=(n, 3)),
    )
    found = float(loss(jnp.asarray(theta), jax.tree.map(jnp.asarray, rows), objective))
    assert found == pytest.approx(slow_loss(theta, rows, objective), rel=1e-6)


def logged(*, seed: int = 0) -> Batch:
    """The best action is 0 where x > 0 and 1 elsewhere, worth 0.8 against the other's 0.3; action 2 costs 1. The logger plays the best
    one time in ten, the other six times, action 2 three times."""
    rng = np.random.default_rng(seed)
    context, kind = rng.normal(size=(ROWS, 2)), rng.choice(3, ROWS, p=[0.1, 0.6, 0.3])
    best = np.where(context[:, 0] > 0.0, 0, 1)
    action = np.where(kind == 2, 2, np.where(kind == 0, best, 1 - best))
    reward = np.where(kind == 2, -1.0, rng.random(ROWS) < np.where(kind == 0, 0.8, 0.3))
    return Batch.of(context, action, reward, propensity=np.array([0.1, 0.6, 0.3])[kind])


@functools.cache
def learner(**settings: Any) -> Any:
    """(rows, contexts) -> p f64[n, A + 1] of the policy that learned from the rows."""
    policy = counterfactual(DIMS, window=2048, steps=100, **settings)

    def answers(rows: Batch, contexts: np.ndarray) -> jax.Array:
        params = policy.prepare(policy.update(policy.init(), rows))

        def choice(context: jax.Array) -> jax.Array:
            return policy.choose(policy.score(params, context, EVERY, jax.random.key(0)), jnp.arange(4) < 2)

        return jax.vmap(choice)(contexts)

    return jax.jit(answers)


def share_of_best(rows: Batch, **settings: Any) -> float:
    """Mean probability of the best action over 500 fresh contexts."""
    contexts = np.random.default_rng(1).normal(size=(500, 2))
    p = np.asarray(learner(**settings)(rows, contexts))
    return float(p[np.arange(500), np.where(contexts[:, 0] > 0.0, 0, 1)].mean())


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_it_learns_the_best_action_from_a_logger_that_avoids_it(estimator: str) -> None:
    """Measured: 0.93 and more. Even play has 0.5; the estimate of the gain over it, from 2,000 rows, is 0.25 +- 0.03."""
    assert share_of_best(logged(), estimator=estimator) > 0.8


def test_without_the_propensities_inverse_weighting_learns_the_logger() -> None:
    """Known bad: the same rows, said to have been drawn with certainty. What was shown most counts most."""
    lying = logged()._replace(propensity=np.ones(ROWS))
    assert share_of_best(lying, estimator="ips") < 0.3


def test_a_larger_penalty_stays_nearer_to_what_is_known() -> None:
    """With a prohibitive price of variance the doubly robust estimate is of least variance, not of most value."""
    bold, timid = (share_of_best(logged(), estimator="ips", variance_penalty=size) for size in (0.0, 50.0))
    assert timid < bold - 0.1


def test_an_estimator_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"policy\.settings\.estimator"):
        PolicySpec.of("counterfactual", {"estimator": "dm"}, floor=0.05, dims=DIMS)
