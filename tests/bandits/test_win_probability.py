"""Win probabilities by quadrature against a slow reference: 200 random problems a ratio of scales, and the corners."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bandits.catalog import PolicySpec
from bandits.policy import Dims
from bandits.win_probability import NODES, win_probabilities
from protos.errors import ConfigError
from tests.bandits.references import win_probability_reference

PROBLEMS, WIDTH = 200, 8
compiled = jax.jit(win_probabilities)
batched = jax.jit(jax.vmap(win_probabilities))


def random_problems(ratio: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and scales [PROBLEMS, WIDTH] of 2 to 8 arms, in arm 0 the finest scale, in the last the coarsest; and the mask of real arms."""
    rng = np.random.default_rng(int(ratio))
    mask = np.arange(WIDTH) < rng.integers(2, WIDTH + 1, (PROBLEMS, 1))
    scale = 10.0 ** rng.uniform(0.0, np.log10(ratio), (PROBLEMS, WIDTH))
    scale[:, 0], scale[:, 1] = 1.0, ratio
    mean = rng.normal(size=(PROBLEMS, WIDTH)) * ratio * rng.choice([0.01, 0.1, 1.0], (PROBLEMS, 1))
    return mean, scale, mask


def reference_of_all(mean: np.ndarray, scale: np.ndarray, mask: np.ndarray, *, per_arm: int = 2001) -> np.ndarray:
    expected = np.zeros_like(mean)
    for row, arms in enumerate(mask):
        expected[row, arms] = win_probability_reference(mean[row, arms], scale[row, arms], per_arm=per_arm)
    assert np.abs(expected.sum(axis=1) - 1.0).max() < 1e-10, "the reference itself does not add up"
    return expected


# Measured: 1.2e-7 at 1 and at 10 (the rounding of float32), 1e-6 at 30, 1e-4 at 100; of arms in float32 no more.
@pytest.mark.parametrize(("ratio", "bound"), [(1.0, 3e-7), (10.0, 3e-7), (30.0, 3e-6), (100.0, 2e-4)])
def test_200_random_problems_agree_with_the_reference(ratio: float, bound: float) -> None:
    mean, scale, mask = random_problems(ratio)
    expected = reference_of_all(mean, scale, mask)
    exact, single = batched(mean, scale, mask), batched(mean.astype(np.float32), scale.astype(np.float32), mask)
    assert single.dtype == np.float32
    np.testing.assert_allclose(exact, expected, rtol=0, atol=bound)
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-4)


# Measured: 1e-7 at 1, 9e-6 at 10; at 100 the spike of twenty arms has eight of the nodes.
@pytest.mark.parametrize(("ratio", "bound"), [(1.0, 3e-7), (10.0, 3e-5), (100.0, 1e-2)])
def test_twenty_narrow_arms_beside_a_wide_one_agree_with_the_reference(ratio: float, bound: float) -> None:
    """A new action among known ones. (Gauss-Legendre nodes on the whole range, 64 of them, were off by 1e-3 at 10 and by 2e-2 at 100.)"""
    rng = np.random.default_rng(1)
    scale = np.ones((12, 21))
    scale[:, -1] = ratio
    mean = rng.normal(size=(12, 21)) * np.where(scale > 1.0, scale, rng.choice([0.0, 0.3, 1.0], (12, 1)))
    every = np.ones_like(mean, bool)
    np.testing.assert_allclose(batched(mean, scale, every), reference_of_all(mean, scale, every, per_arm=201), rtol=0, atol=bound)


@pytest.mark.parametrize(("nodes", "ratio", "bound"), [(40, 30.0, 5e-7), (40, 100.0, 1e-5), (64, 100.0, 5e-7)])
def test_more_nodes_are_nearer(nodes: int, ratio: float, bound: float) -> None:
    """Measured: 1e-7, 5e-6 and 1e-7."""
    mean, scale, mask = random_problems(ratio)
    found = jax.jit(jax.vmap(functools.partial(win_probabilities, nodes=nodes)))(mean, scale, mask)
    np.testing.assert_allclose(found, reference_of_all(mean, scale, mask), rtol=0, atol=bound)


def test_fewer_nodes_than_keep_the_promise_are_refused() -> None:
    with pytest.raises(ConfigError, match="nodes"):
        PolicySpec.of("linear_thompson", {"nodes": NODES - 1}, floor=0.05, dims=Dims(2, 1, 0))


def test_the_comparison_finds_a_rule_that_is_only_nearly_right() -> None:
    """Known bad: arms ranked by a softmax of their z-scores."""
    mean, scale, mask = random_problems(30.0)
    wrong = jax.nn.softmax(jnp.where(mask, mean / scale, -jnp.inf), axis=1)
    right = reference_of_all(mean, scale, mask)
    assert np.abs(np.asarray(wrong) - right).max() > 1e-2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("mean", [0.0, 1.0, -1e3])
def test_one_candidate_left_wins(dtype: type, scale: float, mean: float) -> None:
    means, scales = np.array([mean, 99.0, 99.0], dtype), np.array([scale, 1.0, 0.0], dtype)
    np.testing.assert_allclose(compiled(means, scales, np.array([True, False, False])), [1.0, 0.0, 0.0], rtol=0, atol=1e-6)


def test_nothing_eligible_gives_zeros() -> None:
    np.testing.assert_array_equal(compiled(np.ones(3), np.ones(3), np.zeros(3, bool)), np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1.0, 100.0])
@pytest.mark.parametrize("mean", [0.0, 0.25, -7.0])
def test_ties_are_shared_exactly(dtype: type, scale: float, mean: float) -> None:
    mask = np.array([True, True, False, True, False])
    p = np.asarray(compiled(np.full(5, mean, dtype), np.full(5, scale, dtype), mask))
    assert p[0] == p[1] == p[3] == pytest.approx(1.0 / 3.0, abs=1e-6)
    assert p[2] == p[4] == 0.0


def test_without_any_variance_the_largest_mean_wins_and_ties_share() -> None:
    np.testing.assert_allclose(compiled(np.array([0.1, 0.3, 0.2]), np.zeros(3), np.ones(3, bool)), [0.0, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(compiled(np.array([0.3, 0.1, 0.3]), np.zeros(3), np.ones(3, bool)), [0.5, 0.0, 0.5], atol=1e-9)


@pytest.mark.parametrize(("nodes", "bound"), [(NODES, 5e-3), (40, 1e-3)])
def test_points_without_variance_meet_the_normal_distribution(nodes: int, bound: float) -> None:
    """Alone, tied with a twin, and above another point: P(N(0, 1) < point) = Phi(point). Measured: worst 2e-3, and 3e-4."""
    found = jax.jit(functools.partial(win_probabilities, nodes=nodes))
    every = np.ones(3, bool)
    for point in np.linspace(-3.0, 3.0, 9):
        phi = scipy.stats.norm.cdf(point)
        alone = found(np.array([point, -99.0, 0.0]), np.array([0.0, 0.0, 1.0]), every)
        tied = found(np.array([point, point, 0.0]), np.array([0.0, 0.0, 1.0]), every)
        above = found(np.array([point, point - 0.5, 0.0]), np.array([0.0, 0.0, 1.0]), every)
        np.testing.assert_allclose(alone, [phi, 0.0, 1.0 - phi], rtol=0, atol=bound)
        np.testing.assert_allclose(tied, [phi / 2, phi / 2, 1.0 - phi], rtol=0, atol=bound)
        np.testing.assert_allclose(above, [phi, 0.0, 1.0 - phi], rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_means_far_apart_leave_no_doubt_and_no_nan(dtype: type) -> None:
    p = np.asarray(compiled(np.array([-1e6, 0.0, 1e6], dtype), np.array([1.0, 1e-3, 1.0], dtype), np.ones(3, bool)))
    np.testing.assert_allclose(p, [0.0, 0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(("width", "per_arm"), [(1, 2001), (1000, 9)])
def test_one_arm_and_a_thousand(width: int, per_arm: int) -> None:
    rng = np.random.default_rng(width)
    mean, scale = rng.normal(size=width), rng.uniform(0.5, 2.0, width)
    expected = win_probability_reference(mean, scale, per_arm=per_arm)
    np.testing.assert_allclose(compiled(mean, scale, np.ones(width, bool)), expected, rtol=0, atol=1e-6)


def test_a_thousand_equal_arms_share() -> None:
    np.testing.assert_allclose(compiled(np.zeros(1000), np.ones(1000), np.ones(1000, bool)), np.full(1000, 1e-3), rtol=1e-12)


def test_raising_a_mean_raises_its_probability_and_lowers_the_others() -> None:
    mean, scale = np.array([0.0, 0.5, 1.0, -0.5]), np.array([1.0, 0.1, 3.0, 10.0])
    raised = np.asarray(batched(mean + np.linspace(-3, 3, 61)[:, None] * np.eye(4)[1], np.tile(scale, (61, 1)), np.ones((61, 4), bool)))
    assert np.all(np.diff(raised[:, 1]) > -1e-7)
    assert raised[-1, 1] - raised[0, 1] > 0.5
    assert np.all(np.diff(raised[:, [0, 2, 3]], axis=0) < 1e-7)


def test_location_and_scale_of_all_arms_do_not_matter() -> None:
    mean, scale, mask = random_problems(10.0)
    moved = batched(mean * 1e-4 + 3.0, scale * 1e-4, mask)
    np.testing.assert_allclose(moved, batched(mean, scale, mask), atol=1e-9)


def test_the_order_of_the_arms_does_not_matter() -> None:
    mean, scale, mask = random_problems(30.0)
    flipped = batched(mean[:, ::-1], scale[:, ::-1], mask[:, ::-1])
    np.testing.assert_allclose(np.asarray(flipped)[:, ::-1], batched(mean, scale, mask), rtol=0, atol=2e-7)
