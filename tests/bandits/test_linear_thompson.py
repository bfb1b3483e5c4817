"""Disjoint linear Thompson sampling: what must not change its answers. Its numbers are checked by test_linear_forms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.policies.linear_posterior import SIGNAL
from bandits.policies.linear_thompson import linear_thompson
from bandits.policy import Batch, Candidates, Dims

DIMS = Dims(actions=4, context=5, features=0)
EVERY = Candidates.of(jnp.arange(DIMS.actions + 1, dtype=jnp.int32))
PADDED = 300


def rows(n: int, *, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(n, DIMS.context)) * [1.0, 10.0, 0.1, 3.0, 1.0] + [0.0, 50.0, -1.0, 2.0, 0.0]
    action = rng.integers(0, DIMS.actions - 1, n).astype(np.int32)  # the last action of the table never comes
    reward = context @ rng.normal(size=DIMS.context) * 0.1 + action + rng.normal(size=n)
    return Batch.of(context, action, reward)


@functools.cache
def program(prior_scale: float) -> Callable[..., Any]:
    policy = linear_thompson(DIMS, prior_scale=prior_scale)
    return jax.jit(
        lambda batch, context: policy.score(policy.prepare(policy.update(policy.init(), batch)), context, EVERY, jax.random.key(0))
    )


def scores_at(batch: Batch, context: np.ndarray, *, prior_scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of every action after the rows, which are padded so that one program serves all tests."""
    extra = PADDED - len(batch.reward)
    padded = Batch(*(np.pad(column, ((0, extra), *((0, 0),) * (column.ndim - 1))) for column in batch))
    scores = program(prior_scale)(padded, context)
    return np.asarray(scores.mean), np.asarray(scores.scale)


@pytest.mark.parametrize(("factor", "shift"), [(37.0, -5.0), (1e-3, 0.0), (-3.0, 2.0)])
def test_the_units_of_a_feature_do_not_matter(factor: float, shift: float) -> None:
    batch, context = rows(200, seed=1), np.array([0.3, 55.0, -1.1, 0.0, 2.0])
    change = np.array([1.0, factor, 1.0, 1.0, 1.0])
    moved = batch._replace(context=batch.context * change + [0.0, shift, 0.0, 0.0, 0.0])
    for got, expected in zip(scores_at(moved, context * change + [0.0, shift, 0.0, 0.0, 0.0]), scores_at(batch, context), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_a_constant_feature_carries_nothing() -> None:
    batch, column = rows(200, seed=2), np.eye(DIMS.context)[1]
    constant = batch._replace(context=np.where(np.arange(DIMS.context) == 1, 7.25, batch.context))
    at_seven, elsewhere = scores_at(constant, 7.25 * column), scores_at(constant, 1e6 * column)
    np.testing.assert_array_equal(at_seven, elsewhere)


def test_an_action_without_rows_stands_with_the_cold_one_at_the_prior() -> None:
    for n in (0, 300):
        batch = rows(n, seed=3)
        mean, scale = scores_at(batch, np.ones(DIMS.context))
        assert mean[-1] == pytest.approx(batch.reward.mean() if n else 0.0, rel=1e-12)
        assert mean[-2] == mean[-1] and scale[-2] == scale[-1] > 0.0


def test_the_prior_before_any_row_has_the_scale_of_its_definition() -> None:
    mean, scale = scores_at(rows(0, seed=0), np.full(DIMS.context, 1e6), prior_scale=0.3)
    np.testing.assert_array_equal(mean, np.zeros(5))
    np.testing.assert_allclose(scale, np.full(5, 0.3), rtol=1e-7)


def test_rewards_without_noise_leave_a_scale_that_is_finite() -> None:
    batch = rows(50, seed=4)
    mean, scale = scores_at(batch._replace(reward=np.zeros(50)), batch.context[0])
    assert np.all(np.isfinite(mean)) and np.all(np.isfinite(scale)) and np.all(scale >= 0.0)


def test_doubling_every_row_narrows_the_posterior() -> None:
    batch, context = rows(100, seed=5), np.array([0.0, 50.0, -1.0, 2.0, 0.0])
    double = Batch(*(np.concatenate([column, column]) for column in batch))
    assert np.all(scores_at(double, context)[1][:3] < scores_at(batch, context)[1][:3])


def test_reading_only_the_candidates_matrices_gives_the_same_scores() -> None:
    """A table that is large against the candidate list is gathered from, not multiplied whole."""
    policy = linear_thompson(Dims(actions=40, context=2, features=0))
    batch = Batch.of(np.eye(2), np.array([3, 39]), np.ones(2))
    params = jax.jit(lambda: policy.prepare(policy.update(policy.init(), batch)))()
    score = jax.jit(lambda action: policy.score(params, jnp.ones(2), Candidates.of(action), jax.random.key(0)))
    few, every = score(np.array([39, 40, 3], np.int32)), score(np.arange(41, dtype=np.int32))
    np.testing.assert_allclose(few.mean, every.mean[np.array([39, 40, 3])], rtol=1e-12)
    np.testing.assert_allclose(few.scale, every.scale[np.array([39, 40, 3])], rtol=3e-7)


@pytest.mark.parametrize(("apart", "bound"), [(1.0, 3e-7), (1e-2, 1e-5), (1e-4, 1e-5)])
def test_deviations_bear_features_that_are_nearly_the_same(apart: float, bound: float) -> None:
    """Columns that differ by `apart` of their size: products in float32 are those of the definition in float64, up to the noise."""
    rng = np.random.default_rng(3)
    column = rng.normal(size=2_000)
    context = np.stack([column, column + apart * rng.normal(size=2_000)], axis=1)
    policy = linear_thompson(Dims(actions=1, context=2, features=0), basis="linear")
    batch = Batch.of(context, np.zeros(2_000, np.int32), 3.0 * column + rng.normal(size=2_000))
    params = jax.jit(lambda: policy.prepare(policy.update(policy.init(), batch)))()
    known = Candidates.of(np.zeros(1, np.int32))
    got = jax.vmap(lambda row: policy.score(params, row, known, jax.random.key(0)).scale[0])(context[:100])
    z = np.column_stack([np.ones(2_000), (context - np.asarray(params.standard.centre)) * np.asarray(params.standard.inverse_spread)])
    precision = z.T @ z + np.diag([1.0, 2.0 / SIGNAL**2, 2.0 / SIGNAL**2])
    noise = np.asarray(got) / np.sqrt(np.sum(z[:100] * np.linalg.solve(precision, z[:100].T).T, axis=1))
    assert np.abs(noise / np.median(noise) - 1.0).max() < bound
