"""Neural-linear and the bootstrapped ensemble: the head is the regression on the network's features, and a member's vote is a share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bandits.policies.ensemble import bootstrap_weights, ensemble
from bandits.policies.linear_thompson import linear_thompson
from bandits.policies.neural_linear import neural_linear
from bandits.policies.replay import appended, empty_window
from bandits.policy import Batch, Candidates, Dims

DIMS = Dims(actions=3, context=2, features=0)
EVERY = Candidates.of(jnp.arange(DIMS.actions + 1, dtype=jnp.int32))
CONTEXT, KEY = np.array([0.3, -0.8]), jax.random.key(0)
FEATURES, WINDOW, RETRAIN, ROWS = 4, 128, 64, 32
NEURAL = neural_linear(DIMS, hidden=8, features=FEATURES, window=WINDOW, retrain_every=RETRAIN, steps=100)
HEAD = linear_thompson(Dims(actions=3, context=FEATURES, features=0), prior_scale=1.0, basis="linear")
update, score = jax.jit(NEURAL.update), jax.jit(lambda state: NEURAL.score(NEURAL.prepare(state), CONTEXT, EVERY, KEY))
head_state = jax.jit(lambda batch: HEAD.update(HEAD.init(), batch))


def batch(*, seed: int) -> Batch:
    """Rewards that bend: |x| for action 0, -|x| for action 1; action 2 never comes."""
    rng = np.random.default_rng(seed)
    context, action = rng.normal(size=(ROWS, 2)), rng.integers(0, 2, ROWS)
    reward = np.abs(context[:, 0]) * (1 - 2 * action) + 0.1 * rng.normal(size=ROWS)
    return Batch.of(context, action, reward, time_s=1000.0 * seed + np.arange(ROWS))


def states(batches: int) -> list[Any]:
    found = [NEURAL.init()]
    for seed in range(batches):
        found.append(update(found[-1], batch(seed=seed)))
    return found


def features(state: Any, context: np.ndarray) -> np.ndarray:
    """phi(x), layer by layer in numpy."""
    x = (context - np.asarray(state.body.standard.centre)) * np.asarray(state.body.standard.inverse_spread)
    for layer in ("layers_0", "layers_2"):
        weights = state.body.weights.body[layer]
        x = np.maximum(x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]), 0.0)
    return x


def on_features(state: Any, seeds: list[int]) -> Batch:
    rows = [batch(seed=seed) for seed in seeds]
    together = Batch(*(np.concatenate(columns) for columns in zip(*rows, strict=True)))
    return together._replace(context=features(state, together.context))


def assert_same_head(state: Any, rows: Batch) -> None:
    for found, expected in zip(jax.tree.leaves(state.head), jax.tree.leaves(head_state(rows)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(np.asarray(expected)).max(initial=1.0))


def test_the_head_is_the_regression_of_all_rows_on_the_features_before_and_after_training() -> None:
    """Trained at 32, 64 and 128 rows; in between a row is added to the head under the standing network."""
    found = states(5)
    assert [int(state.trained) for state in found] == [0, 32, 64, 64, 128, 128]
    for count in (1, 2, 3, 4):
        assert_same_head(found[count], on_features(found[count], list(range(count))))
    before, after = (np.asarray(state.body.weights.body["layers_0"]["kernel"]) for state in found[2:4])
    np.testing.assert_array_equal(before, after)


def test_the_head_is_rebuilt_from_the_window_and_the_rest_is_forgotten() -> None:
    found = states(6)[-1]
    assert int(found.trained) == 192
    assert_same_head(found, on_features(found, [2, 3, 4, 5]))


def test_a_network_that_was_trained_bends_where_a_line_cannot() -> None:
    """|x| has no linear part: a straight regression explains nothing of it. Measured: a correlation of 0.95 to 0.99."""
    state, rows = states(6)[-1], batch(seed=99)
    params = NEURAL.prepare(state)
    mean = jax.jit(jax.vmap(lambda context: NEURAL.score(params, context, EVERY, KEY).mean))(rows.context)
    bend = np.abs(rows.context[:, 0])
    assert np.corrcoef(mean[:, 0], bend)[0, 1] > 0.8 and np.corrcoef(mean[:, 1], -bend)[0, 1] > 0.8


def test_only_rows_of_weight_above_zero_reach_head_and_window() -> None:
    state = states(1)[-1]
    taken_back = update(state, batch(seed=0)._replace(weight=np.full(ROWS, -1.0)))
    for found, expected in zip(jax.tree.leaves(taken_back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(found, expected)


def window_of(rows: Batch) -> Any:
    return appended(empty_window(DIMS, size=rows.n_rows), rows)


def many(n: int, **changes: Any) -> Batch:
    """Rows that differ by the second in which they came, and by nothing else."""
    return Batch.of(np.ones((n, 2)), np.zeros(n), np.zeros(n), time_s=np.arange(n))._replace(**changes)


def test_bootstrap_counts_are_poisson_and_independent_between_members() -> None:
    """Chi-square of 4 x 5,000 counts against Poisson(1), and of the table of two members; false alarm 1e-6 each."""
    counts = np.asarray(bootstrap_weights(window_of(many(5000)), members=4)).astype(int)
    observed = np.bincount(np.minimum(counts, 5).ravel(), minlength=6)
    expected = np.append(scipy.stats.poisson.pmf(range(5), 1.0), scipy.stats.poisson.sf(4, 1.0)) * counts.size
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-6
    table = np.histogram2d(np.minimum(counts[:, 0], 3), np.minimum(counts[:, 1], 3), bins=4)[0]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-6


def test_bootstrap_counts_follow_from_the_row_alone() -> None:
    rows, order = many(64), np.random.default_rng(0).permutation(64)
    counts = np.asarray(bootstrap_weights(window_of(rows), members=4))
    np.testing.assert_array_equal(bootstrap_weights(window_of(rows._replace(reward=np.ones(64))), members=4), counts)
    np.testing.assert_array_equal(bootstrap_weights(window_of(many(64, time_s=rows.time_s[order])), members=4), counts[order])
    for changes in ({"action": np.ones(64, np.int32)}, {"slot": np.ones(64, np.int32)}, {"context": np.full((64, 2), 2.0)}):
        assert not np.array_equal(bootstrap_weights(window_of(many(64, **changes)), members=4), counts)


@pytest.fixture(scope="module")
def voted() -> Any:
    """(scores, p under a mask) of an ensemble of 5 after 64 rows."""
    policy = ensemble(DIMS, members=5, hidden=8, window=64, passes=64, prior_scale=1.0)
    state = jax.jit(policy.update)(jax.jit(policy.update)(policy.init(), batch(seed=0)), batch(seed=1))
    mask = np.array([True, True, False, True])
    return jax.jit(lambda state: (scores := policy.score(policy.prepare(state), CONTEXT, EVERY, KEY), policy.choose(scores, mask)))(state)


def test_a_probability_is_the_share_of_members_that_prefer_the_candidate(voted: Any) -> None:
    scores, p = jax.tree.map(np.asarray, voted)
    best = scores.draws[[0, 1, 3]].argmax(axis=0)
    np.testing.assert_allclose(p[[0, 1, 3]], np.bincount(best, minlength=3) / 5, rtol=0, atol=1e-15)
    assert p[2] == 0.0
    np.testing.assert_allclose(scores.mean, scores.draws.mean(axis=1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.scale, scores.draws.std(axis=1), rtol=0, atol=1e-12)


def test_members_agree_less_on_an_action_without_rows_than_on_those_that_have_some(voted: Any) -> None:
    scale = np.asarray(voted[0].scale)
    assert scale[2] == scale[3] > scale[:2].mean()
