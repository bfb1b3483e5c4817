"""Epsilon-greedy, softmax, SquareCB and RegCB: their probabilities are their definitions on the regression's own means and scales."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.policies.epsilon_greedy import epsilon_greedy
from bandits.policies.reg_cb import reg_cb
from bandits.policies.regression import RewardMoments, linear_regression, reward_spread
from bandits.policies.softmax import softmax
from bandits.policies.square_cb import square_cb
from bandits.policy import Batch, Candidates, Dims, Policy

DIMS = Dims(actions=4, context=3, features=0)
EVERY = Candidates.of(jnp.arange(DIMS.actions + 1, dtype=jnp.int32))
MASKS = np.array(list(itertools.product([False, True], repeat=5)))
CONTEXT = np.array([0.4, -1.0, 0.7])
ROWS = 60


def batch(*, factor: float = 1.0) -> Batch:
    rng = np.random.default_rng(5)
    context, action = rng.normal(size=(ROWS, 3)), rng.integers(0, 4, ROWS)
    return Batch.of(context, action, factor * (0.3 * action + context[:, 0] + rng.normal(size=ROWS)))


@functools.cache
def program(factory: Callable[..., Policy], **settings: float) -> Any:
    """(rows) -> (scores, p under every mask)."""
    policy = factory(DIMS, **settings)

    def answers(rows: Batch) -> Any:
        scores = policy.score(policy.prepare(policy.update(policy.init(), rows)), CONTEXT, EVERY, jax.random.key(0))
        return scores, jax.vmap(policy.choose, in_axes=(None, 0))(scores, MASKS)

    return jax.jit(answers)


@functools.cache
def regression() -> Any:
    model = linear_regression(DIMS, prior_scale=1.0)
    scores = jax.jit(lambda rows: model.score(model.prepare(model.update(model.init(), rows)), CONTEXT, EVERY, jax.random.key(0)))(batch())
    return np.asarray(scores.mean), np.asarray(scores.scale)


def by_masks(rule: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """p f64[masks, K] of a rule that is told the places of the eligible candidates."""
    p = np.zeros(MASKS.shape)
    for row, mask in enumerate(MASKS):
        if mask.any():
            p[row, mask] = rule(np.flatnonzero(mask))
    return p


@pytest.mark.parametrize("factory", [epsilon_greedy, softmax, square_cb, reg_cb])
def test_mean_and_scale_are_those_of_the_regression(factory: Callable[..., Policy]) -> None:
    scores, _ = program(factory)(batch())
    np.testing.assert_allclose(scores.mean, regression()[0], rtol=1e-12)
    np.testing.assert_allclose(scores.scale, regression()[1], rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_epsilon_greedy_plays_the_largest_mean_but_for_epsilon(epsilon: float) -> None:
    mean = regression()[0]
    expected = by_masks(lambda places: (1 - epsilon) * (mean[places] == mean[places].max()) + epsilon / len(places))
    np.testing.assert_allclose(program(epsilon_greedy, epsilon=epsilon)(batch())[1], expected, rtol=0, atol=1e-14)


def test_softmax_is_boltzmann_in_standard_deviations_of_the_reward() -> None:
    weights = np.exp(regression()[0] / (0.5 * batch().reward.std()))
    expected = by_masks(lambda places: weights[places] / weights[places].sum())
    np.testing.assert_allclose(program(softmax, temperature=0.5)(batch())[1], expected, rtol=1e-9)


def test_slates_of_softmax_are_plackett_luce_and_those_of_another_rule_are_not() -> None:
    """The top-l slates of softmax are the orders of independent Gumbel-perturbed logits: prod w_l / sum of what is left."""

    def joints(p: np.ndarray, weights: np.ndarray) -> tuple[list[float], list[float]]:
        at = {tuple(mask): row for row, mask in enumerate(MASKS.tolist())}
        found, expected = [], []
        for slate in itertools.permutations(range(5), 3):
            masks = [tuple(k not in slate[:slot] for k in range(5)) for slot in range(3)]
            found.append(float(np.prod([p[at[mask], k] for mask, k in zip(masks, slate, strict=True)])))
            expected.append(float(np.prod([weights[k] / weights[list(mask)].sum() for mask, k in zip(masks, slate, strict=True)])))
        return found, expected

    scores, p = program(softmax, temperature=0.5)(batch())
    weights = np.exp(np.asarray(scores.logit))
    found, expected = joints(np.asarray(p), weights)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert sum(found) == pytest.approx(1.0, abs=1e-12)
    wrong, _ = joints(np.asarray(program(square_cb)(batch())[1]), weights)
    assert np.abs(np.array(wrong) - expected).max() > 1e-2


def test_square_cb_weighs_by_inverse_gaps_that_sharpen_with_the_rows() -> None:
    mean, gamma = regression()[0], 4.0 * np.sqrt(ROWS) / batch().reward.std()

    def rule(places: np.ndarray) -> np.ndarray:
        gap = mean[places].max() - mean[places]
        p = np.where(gap > 0, 1.0 / (len(places) + gamma * gap), 0.0)
        return np.where(gap > 0, p, (1.0 - p.sum()) / (gap == 0).sum())

    scores, p = program(square_cb)(batch())
    assert float(scores.gamma) == pytest.approx(gamma, rel=1e-12)
    np.testing.assert_allclose(p, by_masks(rule), rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [1.0, 0.2])
def test_reg_cb_plays_what_survives_evenly(width: float) -> None:
    mean, scale = regression()

    def rule(places: np.ndarray) -> np.ndarray:
        survives = [all(mean[k] + width * scale[k] >= mean[j] - width * scale[j] for j in places) for k in places]
        return np.array(survives) / sum(survives)

    expected = by_masks(rule)
    np.testing.assert_allclose(program(reg_cb, width=width)(batch())[1], expected, rtol=0, atol=1e-15)
    assert np.any((expected > 0) != MASKS), "nothing is eliminated: the test tests nothing"


@pytest.mark.parametrize("factory", [softmax, square_cb])
@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_unit_of_the_reward_does_not_matter(factory: Callable[..., Policy], factor: float) -> None:
    plain, scaled = (np.asarray(program(factory)(batch(factor=size))[1]) for size in (1.0, factor))
    np.testing.assert_allclose(scaled, plain, rtol=0, atol=1e-9)


def test_rewards_that_never_vary_have_the_spread_of_one() -> None:
    for reward in (0.0, 0.1, 1e9):
        rows = Batch.of(np.zeros((7, 3)), np.zeros(7), np.full(7, reward))
        assert float(reward_spread(RewardMoments.zero().plus(rows))) == 1.0
    assert float(reward_spread(RewardMoments.zero())) == 1.0
