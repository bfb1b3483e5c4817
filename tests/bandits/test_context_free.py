"""Policies without a context: Beta-Bernoulli and Gaussian Thompson sampling, UCB1, KL-UCB, by their definitions."""

import math
from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from bandits.catalog import CATALOG, PolicySpec
from bandits.errors import PolicyError
from bandits.policies.beta_bernoulli import beta_bernoulli
from bandits.policies.gaussian_thompson import gaussian_thompson
from bandits.policies.upper_bounds import kl_ucb, ucb1
from bandits.policy import Batch, Candidates, Dims, Policy
from protos.errors import ConfigError

DIMS = Dims(actions=4, context=2, features=0)
EVERY = Candidates.of(np.arange(5, dtype=np.int32))  # 3 never comes, 4 is unknown
ALL = np.ones(5, bool)


def rows(rewards: dict[int, list[float]]) -> Batch:
    action = np.concatenate([np.full(len(values), arm) for arm, values in rewards.items()])
    reward = np.concatenate(list(rewards.values()))
    return Batch.of(np.random.default_rng(0).normal(size=(len(reward), 2)), action, reward)


REWARDS = {0: [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 1: [0.0] * 7 + [1.0], 2: [0.25, 0.75, 1.0]}


def after(policy: Policy, batch: Batch) -> tuple[Any, np.ndarray]:
    """Scores of every action, and the distribution over all."""

    @jax.jit
    def run(batch: Batch) -> Any:
        scores = policy.score(policy.prepare(policy.update(policy.init(), batch)), np.zeros(2), EVERY, jax.random.key(0))
        return scores, policy.choose(scores, ALL)

    scores, p = run(batch)
    return scores, np.asarray(p)


def test_beta_arms_are_their_counts_and_pseudo_rows_at_the_rate_of_all() -> None:
    scores, p = after(beta_bernoulli(DIMS), rows(REWARDS))
    n, s = np.array([6.0, 8.0, 3.0, 0.0, 0.0]), np.array([4.0, 1.0, 2.0, 0.0, 0.0])
    rate = (7.0 + 1.0) / (17.0 + 2.0)
    arms = scipy.stats.beta(2.0 * rate + s, 2.0 * (1.0 - rate) + n - s)
    np.testing.assert_allclose(scores.mean, arms.mean(), rtol=1e-12)
    np.testing.assert_allclose(scores.scale, arms.std(), rtol=1e-12)
    draws = arms.rvs(size=(200_000, 5), random_state=1).argmax(axis=1)
    # 5 standard errors of 200,000 draws: false alarm 6e-7 an arm.
    np.testing.assert_allclose(p, np.bincount(draws, minlength=5) / 200_000, atol=5.0 * math.sqrt(0.25 / 200_000))
    assert p[3] == pytest.approx(p[4], abs=1e-15)


def test_a_reward_range_is_mapped_to_success_and_failure_and_clipped() -> None:
    scaled = rows({arm: [10.0 * value - 5.0 for value in values] for arm, values in REWARDS.items()})
    plain, wide = after(beta_bernoulli(DIMS), rows(REWARDS)), after(beta_bernoulli(DIMS, reward_low=-5.0, reward_high=5.0), scaled)
    np.testing.assert_allclose(wide[1], plain[1], atol=1e-12)
    np.testing.assert_allclose(wide[0].mean, 10.0 * plain[0].mean - 5.0, rtol=1e-12)
    beyond = rows({arm: [{0.0: -3.0, 1.0: 7.0}.get(value, value) for value in values] for arm, values in REWARDS.items()})
    np.testing.assert_allclose(after(beta_bernoulli(DIMS), beyond)[1], plain[1], atol=1e-12)


def test_gaussian_arms_share_the_variance_that_their_means_leave() -> None:
    batch = rows({0: [3.0, 5.0, 4.0], 1: [1.0, 2.0], 2: [7.0]})
    scores, p = after(gaussian_thompson(DIMS), batch)
    y, n = batch.reward, np.array([3.0, 2.0, 1.0, 0.0, 0.0])
    centre = y.mean()
    total = np.array([y[batch.action == arm].sum() for arm in range(5)])
    mean = centre + (total - n * centre) / (n + 1.0)
    left = ((y - centre) ** 2).sum() - ((total - n * centre) ** 2 / (n + 1.0)).sum()
    variance = (y.var() + left) / (1.0 + len(y))
    np.testing.assert_allclose(scores.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(scores.scale, np.sqrt(variance / (n + 1.0)), rtol=3e-7)
    draws = (mean + np.asarray(scores.scale) * np.random.default_rng(0).normal(size=(200_000, 5))).argmax(axis=1)
    np.testing.assert_allclose(p, np.bincount(draws, minlength=5) / 200_000, atol=5.0 * math.sqrt(0.25 / 200_000))


def kl(p: float, q: float) -> float:
    return float(scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1.0 - p, 1.0 - q))


def test_ucb1_and_kl_ucb_have_the_bounds_of_their_papers() -> None:
    auer, garivier = (after(policy(DIMS), rows(REWARDS))[0] for policy in (ucb1, kl_ucb))
    for arm, (n, s) in enumerate([(6, 4.0), (8, 1.0), (3, 2.0)]):
        assert auer.index[arm] == pytest.approx(s / n + math.sqrt(2.0 * math.log(17) / n), rel=1e-12)
        q = scipy.optimize.brentq(lambda q, p=s / n, n=n: n * kl(p, q) - math.log(17), s / n, 1.0 - 1e-12)
        assert garivier.index[arm] == pytest.approx(q, abs=1e-9)
    assert np.all(np.asarray(garivier.index)[:3] < np.asarray(auer.index)[:3])  # Pinsker


@pytest.mark.parametrize("policy", [ucb1, kl_ucb])
def test_actions_without_rows_come_first_and_share(policy: Any) -> None:
    assert after(policy(DIMS), rows(REWARDS))[1].tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    at_first = after(policy(DIMS), rows({0: [0.0], 1: [0.0], 2: [0.0]})._replace(weight=np.zeros(3)))
    np.testing.assert_allclose(at_first[1], 0.2, rtol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_kl_ucb_is_finite_at_the_ends(mean: float) -> None:
    """kl(0, q) = -ln(1 - q) gives 1 - N^(-1/n); nothing is above 1."""
    index = np.asarray(after(kl_ucb(DIMS), rows({0: [mean] * 5}))[0].index)[0]
    assert index == pytest.approx(1.0 if mean else 1.0 - 5.0 ** (-1.0 / 5.0), abs=1e-12)


@pytest.mark.parametrize("name", ["beta_bernoulli", "ucb1", "kl_ucb"])
def test_a_range_that_is_upside_down_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"reward_low 1.0 is not below reward_high 0.0"):
        PolicySpec.of(name, {"reward_low": 1.0, "reward_high": 0.0}, floor=0.05, dims=DIMS)
    with pytest.raises(PolicyError, match=r"reward_low: 1.0"):
        CATALOG[name].factory(DIMS, reward_low=1.0, reward_high=0.0)
