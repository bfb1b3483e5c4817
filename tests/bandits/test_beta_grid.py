"""Win probabilities of Beta arms against the slow integral, and where the grid is asked too much."""

import jax
import numpy as np
import pytest
from scipy.special import betainc, betaln, digamma, polygamma

from bandits.policies.beta_grid import beta_grid, winners


def slow(a: np.ndarray, b: np.ndarray, *, per_arm: int = 2001) -> np.ndarray:
    """P(arm k is the largest): three Gauss nodes in each cell of a grid on the log-odds with `per_arm` points over every arm."""
    centre, spread = digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))
    points = [np.linspace(-600.0, 60.0, 20_001), *(c + s * np.linspace(-9.0, 9.0, per_arm) for c, s in zip(centre, spread, strict=True))]
    edges = np.unique(np.concatenate(points))
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(edges) / 2.0, (edges[1:] + edges[:-1]) / 2.0
    t, weight = (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()
    below = np.log(np.maximum(betainc(a[:, None], b[:, None], 1.0 / (1.0 + np.exp(-t))), 1e-300))
    density = -a[:, None] * np.logaddexp(0.0, -t) - b[:, None] * np.logaddexp(0.0, t) - betaln(a, b)[:, None]
    return np.exp(density + below.sum(axis=0) - below) @ weight


@jax.jit
def fast(a: jax.Array, b: jax.Array, mask: jax.Array) -> jax.Array:
    grid = beta_grid(a, b)
    return winners(grid.mass, grid.below, mask)


# Five arms each: (a, b) of equal, skewed, rare, very unequal and one-sided arms.
ARMS = {
    "the prior": (np.ones(5), np.ones(5)),
    "a few rows": (np.array([1.0, 2.0, 3.5, 1.2, 6.0]), np.array([3.0, 2.0, 5.5, 1.0, 9.0])),
    "rare successes": (np.array([10.0, 12.0, 3.0, 0.4, 20.0]), np.array([990.0, 1100.0, 400.0, 3.0, 1990.0])),
    "one of 100,000 rows among new ones": (np.array([0.2, 10_000.0, 1.0, 0.2, 2.0]), np.array([1.8, 90_000.0, 5.0, 1.8, 9.0])),
    "many rows, near ties": (
        np.array([1000.0, 1010.0, 990.0, 1005.0, 1.0]) * 100.0,
        np.array([9000.0, 9000.0, 9010.0, 9001.0, 9.0]) * 100.0,
    ),
    "all failed": (np.full(5, 0.05), np.array([1.0, 10.0, 100.0, 1000.0, 1.0])),
}


@pytest.mark.parametrize("name", ARMS)
def test_they_are_those_of_the_slow_integral(name: str) -> None:
    a, b = ARMS[name]
    np.testing.assert_allclose(fast(a, b, np.ones(5, bool)), slow(a, b), atol=1e-8)


@pytest.mark.parametrize("name", ARMS)
def test_over_a_mask_they_are_those_of_the_arms_that_are_left(name: str) -> None:
    a, b = ARMS[name]
    left = np.array([1, 0, 1, 1, 0], bool)
    p = np.asarray(fast(a, b, left))
    np.testing.assert_allclose(p[left], slow(a[left], b[left]), atol=1e-8)
    assert np.all(p[~left] == 0.0)


def test_two_arms_are_those_of_a_closed_form() -> None:
    """P(Beta(a, 1) > Beta(c, 1)) = a / (a + c)."""
    a = np.array([3.0, 5.0, 1.0, 1.0, 1.0])
    p = fast(a, np.ones(5), np.array([1, 1, 0, 0, 0], bool))
    assert p[0] == pytest.approx(3.0 / 8.0, abs=1e-10)


def test_a_hundred_arms_still_make_a_distribution_near_the_truth() -> None:
    rng = np.random.default_rng(0)
    rate, rows = rng.beta(2, 20, 100), rng.integers(10, 2000, 100)
    a, b = 1.0 + rows * rate, 1.0 + rows * (1.0 - rate)
    p = np.asarray(fast(a, b, np.ones(100, bool)))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(p, slow(a, b, per_arm=201), atol=1e-5)
