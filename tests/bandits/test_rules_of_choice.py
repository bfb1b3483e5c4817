"""The rules of choice against their definitions in plain Python, under every mask, and what must not change their answers."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.policies.rules import boltzmann, even, greedy, inverse_gap, proportional

K = 5
MASKS = np.array(list(itertools.product([False, True], repeat=K)))
VALUES = np.array([0.3, -1.0, 0.3, 2.0, 0.0])
GAMMA = 7.0

RULES: dict[str, Callable[..., Any]] = {
    "even": lambda values, mask: even(mask),
    "greedy": greedy,
    "proportional": lambda values, mask: proportional(jnp.abs(values), mask),
    "boltzmann": boltzmann,
    "inverse_gap": lambda values, mask: inverse_gap(values, jnp.float64(GAMMA), mask),
}


def slow(name: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The definition, one candidate after the other."""
    eligible = np.flatnonzero(mask)
    best = max((values[k] for k in eligible), default=0.0)
    ties = [k for k in eligible if values[k] == best]
    p = np.zeros(K)
    for k in eligible:
        if name == "even":
            p[k] = 1.0 / len(eligible)
        elif name == "greedy":
            p[k] = (k in ties) / len(ties)
        elif name == "proportional":
            total = sum(abs(values[j]) for j in eligible)
            p[k] = abs(values[k]) / total if total else 1.0 / len(eligible)
        elif name == "boltzmann":
            p[k] = np.exp(values[k]) / sum(np.exp(values[j]) for j in eligible)
        elif values[k] < best:
            p[k] = 1.0 / (len(eligible) + GAMMA * (best - values[k]))
    if name == "inverse_gap" and len(eligible):
        p[ties] = (1.0 - p.sum()) / len(ties)
    return p


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    return jax.jit(jax.vmap(RULES[name], in_axes=(None, 0)))


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("values", [VALUES, np.zeros(K), -VALUES], ids=["mixed", "tied", "reversed"])
def test_a_rule_is_its_definition_under_every_mask(name: str, values: np.ndarray) -> None:
    expected = np.array([slow(name, values, mask) for mask in MASKS])
    found = np.asarray(compiled(name)(values, MASKS))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.sum(axis=1), MASKS.any(axis=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["greedy", "boltzmann", "inverse_gap"])
@pytest.mark.parametrize("size", [1e-300, 1e6, 1e300])
def test_values_of_any_size_give_a_distribution(name: str, size: float) -> None:
    found = np.asarray(compiled(name)(VALUES * size, MASKS))
    assert np.all(found >= 0.0)
    np.testing.assert_allclose(found.sum(axis=1), MASKS.any(axis=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["greedy", "boltzmann", "inverse_gap"])
def test_a_constant_added_to_all_values_changes_nothing(name: str) -> None:
    np.testing.assert_allclose(compiled(name)(VALUES + 4.0, MASKS), compiled(name)(VALUES, MASKS), rtol=0, atol=1e-14)


def test_inverse_gap_weighting_is_even_without_gamma_and_greedy_in_the_limit() -> None:
    every = np.ones(K, bool)
    np.testing.assert_allclose(inverse_gap(VALUES, jnp.float64(0.0), every), np.full(K, 0.2), rtol=0, atol=1e-15)
    np.testing.assert_allclose(inverse_gap(VALUES, jnp.float64(1e12), every), greedy(VALUES, every), rtol=0, atol=1e-11)
