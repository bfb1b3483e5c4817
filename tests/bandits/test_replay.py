"""The replay window against a deque, its draws, its standardisation against numpy; the descent against Adam written out."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bandits.policies.network import descended
from bandits.policies.replay import appended, as_batch, drawn_rows, empty_window, filled, standard_of
from bandits.policy import Batch, Dims

DIMS = Dims(actions=3, context=2, features=0)
SIZE = 8
append = jax.jit(appended)


def batch(n: int, *, seed: int) -> Batch:
    """Rows of which some have weight 0 and some below."""
    rng = np.random.default_rng(seed)
    return Batch.of(
        rng.normal(size=(n, 2)),
        rng.integers(0, 3, n),
        rng.normal(size=n),
        weight=rng.choice([0.0, 1.0, 1.0, 2.0, -1.0], n),
        time_s=rng.normal(size=n),
        slot=rng.integers(0, 3, n).astype(np.int32),
        propensity=rng.uniform(0.1, 1.0, n),
    )


@pytest.mark.parametrize("sizes", [(0,), (3, 3), (5, 5, 5, 5), (30, 5), (5, 30)])
def test_the_window_holds_the_newest_rows_of_weight_above_zero(sizes: tuple[int, ...]) -> None:
    window, newest, count = empty_window(DIMS, size=SIZE), collections.deque(maxlen=SIZE), 0
    for seed, n in enumerate(sizes):
        rows = batch(n, seed=seed)
        window = append(window, rows)
        for row in np.flatnonzero(rows.weight > 0):
            newest.append((*rows.context[row], rows.action[row], rows.reward[row], rows.weight[row], rows.slot[row], rows.propensity[row]))
            count += 1
    columns = (*np.asarray(window.context).T, window.action, window.reward, window.weight, window.slot, window.propensity)
    held = [row for row in zip(*map(np.asarray, columns), strict=True) if row[4] > 0]
    assert sorted(map(tuple, held)) == sorted(newest)
    assert int(window.rows) == count and int(filled(window)) == len(newest)


def test_the_rows_come_back_as_a_batch_with_another_context() -> None:
    window = append(empty_window(DIMS, size=SIZE), batch(5, seed=0))
    back = as_batch(window, context=jnp.ones((SIZE, 7)))
    assert back.context.shape == (SIZE, 7) and back.features.shape == (SIZE, 0)
    np.testing.assert_array_equal(back.reward, window.reward)
    np.testing.assert_array_equal(back.propensity, window.propensity)


def test_a_minibatch_is_drawn_evenly_from_the_rows_that_are_there() -> None:
    """Chi-square over 64,000 draws from 5 rows; false alarm 1e-6. The draws follow from the rows seen and the step."""
    window = append(empty_window(DIMS, size=SIZE), batch(5, seed=1)._replace(weight=np.ones(5)))
    draw = jax.jit(lambda steps: jax.vmap(lambda step: drawn_rows(window, step, size=64))(steps))
    drawn = np.asarray(draw(np.arange(1000)))
    counts = np.bincount(drawn.ravel(), minlength=SIZE)
    assert np.all(counts[5:] == 0) and scipy.stats.chisquare(counts[:5]).pvalue > 1e-6
    np.testing.assert_array_equal(drawn, draw(np.arange(1000)))
    assert not np.array_equal(drawn[0], drawn[1])


def test_rows_are_standardised_by_weighted_moments_and_constants_carry_nothing() -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(3.0, 2.0, 50), np.full(50, 0.1), np.zeros(50)])
    weight = rng.integers(0, 3, 50).astype(float)
    repeated = np.repeat(x, weight.astype(int), axis=0)
    standard = standard_of(jnp.asarray(x), jnp.asarray(weight))
    np.testing.assert_allclose(standard.centre, repeated.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(standard.spread, [repeated[:, 0].std(), 0.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(standard.of(jnp.asarray(x))[:, 0], (x[:, 0] - repeated[:, 0].mean()) / repeated[:, 0].std(), rtol=1e-9)
    np.testing.assert_array_equal(standard.of(jnp.asarray(x))[:, 1:], np.zeros((50, 2)))


def test_the_descent_is_adam_as_the_paper_writes_it() -> None:
    target, start, rate = np.array([1.0, -2.0, 0.5]), np.zeros(3), 0.05
    w, m, v = start.copy(), np.zeros(3), np.zeros(3)
    for t in range(1, 31):
        slope = 2.0 * (w - target) + 0.1 * t
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    def gradient(weights: jax.Array, step: jax.Array) -> jax.Array:
        return 2.0 * (weights - target) + 0.1 * (step.astype(jnp.float64) + 1.0)

    found = jax.jit(lambda steps: descended(gradient, jnp.asarray(start), steps=steps, step_size=rate))
    np.testing.assert_allclose(found(30), w, rtol=1e-12)
    np.testing.assert_array_equal(found(0), start)
