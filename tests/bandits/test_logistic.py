"""Logistic regression by sites against the mode that scipy finds, the base rate of actions without rows, and what must not matter."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from bandits.policies.logistic import logistic_thompson, logistic_ucb
from bandits.policies.logistic_regression import LogisticState, logistic_score
from bandits.policy import Batch, Candidates, Dims
from bandits.win_probability import win_probabilities

DIMS = Dims(actions=3, context=2, features=0)
EVERY = Candidates.of(jnp.arange(DIMS.actions + 1, dtype=jnp.int32))
PADDED = 240
CONTEXT = np.array([0.5, 40.0])
POLICY = logistic_ucb(DIMS)
update, prepare = jax.jit(POLICY.update), jax.jit(POLICY.prepare)


def rows(n: int, *, seed: int, steep: float = 1.0) -> Batch:
    """Successes whose log-odds are `steep` times a line of the context; the table's last action never comes."""
    rng = np.random.default_rng(seed)
    z, action = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
    logit = steep * (z @ [1.0, -0.5] * (1 - 2 * action) - 1.0)
    return Batch.of(z * [1.0, 10.0] + [0.0, 50.0], action, rng.random(n) < expit(logit))


def learned(*batches: Batch) -> LogisticState:
    """The state after batches, each padded so that one program serves all tests."""
    state = POLICY.init()
    for batch in batches:
        extra = PADDED - batch.n_rows
        state = update(state, Batch(*(np.pad(column, ((0, extra), *((0, 0),) * (column.ndim - 1))) for column in batch)))
    return state


@functools.cache
def _score() -> Any:
    return jax.jit(lambda params, context: logistic_score(params, context, EVERY))


def scores(state: LogisticState, context: np.ndarray = CONTEXT) -> Any:
    return jax.tree.map(np.asarray, _score()(prepare(state), context))


def reference(batch: Batch, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode and Laplace scale of the log-odds of every action and the cold one, by BFGS on the posterior, rows standardised first."""
    n, y = batch.n_rows, batch.reward
    centre, spread = batch.context.mean(axis=0), batch.context.std(axis=0)
    design, at = np.column_stack([np.ones(n), (batch.context - centre) / spread]), np.r_[1.0, (context - centre) / spread]
    precision, base = np.diag([1.0, 2.0, 2.0]), np.array([np.log((y.sum() + 0.5) / (n - y.sum() + 0.5)), 0.0, 0.0])
    found = []
    for action in range(DIMS.actions + 1):
        z, hits = design[batch.action == action], y[batch.action == action]

        def loss(w: np.ndarray, z: np.ndarray = z, hits: np.ndarray = hits) -> float:
            return float((np.logaddexp(0.0, z @ w) - hits * (z @ w)).sum() + 0.5 * (w - base) @ precision @ (w - base))

        def slope(w: np.ndarray, z: np.ndarray = z, hits: np.ndarray = hits) -> np.ndarray:
            return z.T @ (expit(z @ w) - hits) + precision @ (w - base)

        w = minimize(loss, base, jac=slope, method="BFGS", options={"gtol": 1e-10, "maxiter": 1000}).x
        p = expit(z @ w)
        covariance = np.linalg.inv(z.T @ (z * (p * (1.0 - p))[:, None]) + precision)
        found.append((at @ w, np.sqrt(at @ covariance @ at)))
    mode, scale = np.array(found).T
    return mode, scale


@pytest.mark.parametrize(("n", "steep"), [(2, 1.0), (5, 1.0), (240, 1.0), (240, 20.0)])
def test_after_one_batch_mode_and_scale_are_those_of_the_slow_posterior(n: int, steep: float) -> None:
    batch = rows(n, seed=n, steep=steep)
    mode, scale = reference(batch, CONTEXT)
    found = scores(learned(batch))
    np.testing.assert_allclose(found.logit, mode, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.logit_scale, scale, rtol=1e-6)


def test_batch_by_batch_stays_near_the_mode_of_all_rows() -> None:
    """An approximation: sites stand where they were made. Measured over 12 batches of 20: at most 0.25 scales off."""
    batch = rows(240, seed=1)
    parts = [Batch(*(column[start : start + 20] for column in batch)) for start in range(0, 240, 20)]
    mode, scale = reference(batch, CONTEXT)
    found = scores(learned(*parts))
    assert np.abs((found.logit - mode) / scale).max() < 0.5
    np.testing.assert_allclose(found.logit_scale, scale, rtol=0.2)


def test_actions_without_rows_stand_at_the_base_rate() -> None:
    at_first = scores(learned())
    np.testing.assert_allclose(at_first.mean, np.full(4, 0.5), rtol=0, atol=1e-15)
    rare = rows(240, seed=2)._replace(reward=(np.arange(240) % 40 == 0).astype(float))
    found = scores(learned(rare))
    assert found.logit[2] == found.logit[3] == pytest.approx(np.log(6.5 / 234.5), abs=1e-12)
    assert found.logit_scale[2] == found.logit_scale[3] > found.logit_scale[:2].max()


def test_rewards_outside_zero_and_one_count_as_the_nearer_of_them() -> None:
    batch = rows(100, seed=3)
    wild = batch._replace(reward=np.where(batch.reward > 0, 7.0, -3.0))
    np.testing.assert_array_equal(scores(learned(wild)).logit, scores(learned(batch)).logit)


def test_a_share_of_success_is_as_many_rows_of_success_and_failure() -> None:
    """One row of weight 4 and reward 3/4 has the likelihood of three successes and a failure."""
    batch = rows(40, seed=4)
    shares = batch._replace(reward=np.full(40, 0.75), weight=np.full(40, 4.0))
    apart = [batch._replace(reward=np.full(40, float(success))) for success in (1, 1, 1, 0)]
    together = Batch(*(np.concatenate(columns) for columns in zip(*apart, strict=True)))
    np.testing.assert_allclose(scores(learned(shares)).logit, scores(learned(together)).logit, rtol=0, atol=1e-9)


def test_the_units_of_a_feature_do_not_matter() -> None:
    batch = rows(200, seed=5)
    moved = batch._replace(context=batch.context * [1.0, -37.0] + [5.0, 0.0])
    for got, expected in zip(scores(learned(moved), CONTEXT * [1.0, -37.0] + [5.0, 0.0]), scores(learned(batch)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


def test_rows_that_a_line_separates_leave_numbers_that_are_finite() -> None:
    batch = rows(240, seed=6)
    separated = batch._replace(context=batch.context * 1e6, reward=(batch.context[:, 0] > 0.0).astype(float))
    state = learned(*[separated] * 5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state, prepare(state), scores(state))))


def test_the_scale_of_the_mean_is_that_of_draws_of_the_log_odds() -> None:
    """Mean within 0.01 of 200,000 draws (standard error 5e-4), scale within a fifth: it is the first order."""
    found = scores(learned(rows(240, seed=7)))
    draws = expit(found.logit + found.logit_scale * np.random.default_rng(0).normal(size=(200_000, 4)))
    np.testing.assert_allclose(found.mean, draws.mean(axis=0), rtol=0, atol=0.01)
    np.testing.assert_allclose(found.scale[:2], draws.std(axis=0)[:2], rtol=0.2)


def test_thompson_sampling_draws_by_the_log_odds_and_ucb_takes_the_largest_bound() -> None:
    found, mask = scores(learned(rows(60, seed=8))), np.array([True, True, False, True])
    expected = win_probabilities(found.logit, found.logit_scale, mask)
    np.testing.assert_allclose(logistic_thompson(DIMS).choose(found, mask), expected, rtol=0, atol=1e-15)
    bound = np.where(mask, found.logit + 2.0 * found.logit_scale, -np.inf)
    np.testing.assert_array_equal(logistic_ucb(DIMS, alpha=2.0).choose(found, mask), np.eye(4)[bound.argmax()])
