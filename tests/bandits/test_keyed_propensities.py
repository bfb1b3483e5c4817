"""Policies that draw from a posterior with the request's key: each decision has a distribution of its own, and what is logged is its entry.

Over n decisions with other keys, the inverse-propensity mean of drawing a candidate, and of drawing a pair, is 1 whatever the
distributions were. 8,000 decisions, 5 standard errors (false alarm 6e-7 each); a propensity of 0.2 that is off by 11 % is found.
"""

import functools

import numpy as np
import pytest

from bandits.catalog import CATALOG, PolicySpec, build
from bandits.keys import draw_key
from bandits.policy import Batch, Dims
from bandits.programs import Outputs, run_decide, run_numerators, run_prepare, update_program
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests

DIMS = Dims(actions=4, context=2, features=2)
DECISIONS, CANDIDATES, SLOTS = 8_000, 4, 2
KEYED = sorted(name for name, entry in CATALOG.items() if entry.keyed)
FEATURES = np.random.default_rng(1).normal(size=(CANDIDATES, DIMS.features))


def spec(name: str) -> PolicySpec:
    return PolicySpec.of(name, {"exploration": 1.0, "draws": 32}, floor=0.1, dims=DIMS)


@functools.cache
def decided(name: str) -> tuple[Outputs, np.ndarray]:
    """The slates drawn, and the top slot's distribution of every decision f64[n, K]."""
    rng = np.random.default_rng(5)
    context, action = rng.normal(size=(40, 2)), rng.integers(0, 4, 40)
    batch = Batch.of(context, action, 0.3 * action + context[:, 0] + 2.0 * rng.normal(size=40), features=FEATURES[action])
    policy = build(spec(name))
    params = run_prepare(spec(name), update_program(spec(name))(policy.init(), batch))
    keys = np.stack([draw_key(number.to_bytes(8, "little")) for number in range(DECISIONS)]) * np.uint32(2654435761)
    every = Requests.of(
        np.tile([0.4, -1.0], (DECISIONS, 1)),
        np.arange(CANDIDATES),
        features=np.tile(FEATURES, (DECISIONS, 1, 1)),
        slots=SLOTS,
        draw_key=keys,
    )
    ones = [run_numerators(spec(name), params, every, np.full((DECISIONS, 1), arm, np.int32)).numerators[:, 0] for arm in range(CANDIDATES)]
    return run_decide(spec(name), params, every, slots=SLOTS), np.column_stack(ones) / DENOMINATOR


def is_one(weights: np.ndarray) -> bool:
    return bool(abs(weights.mean() - 1.0) <= 5.0 * weights.std() / np.sqrt(len(weights)))


@pytest.mark.parametrize("name", KEYED)
def test_what_is_logged_is_the_entry_of_the_decisions_own_distribution(name: str) -> None:
    outputs, vectors = decided(name)
    np.testing.assert_allclose(vectors.sum(axis=1), 1.0, atol=1e-12)
    assert len(np.unique(vectors[:, 0])) > 3  # known bad for this file: a policy whose distribution never moves with the key
    np.testing.assert_allclose(vectors[np.arange(DECISIONS), outputs.slates[:, 0]], outputs.numerators[:, 0] / DENOMINATOR, atol=1e-9)


@pytest.mark.parametrize("name", KEYED)
def test_inverse_propensity_means_are_one(name: str) -> None:
    outputs, vectors = decided(name)
    p = outputs.numerators / DENOMINATOR
    first, second = outputs.slates.T
    assert all(is_one(np.where(first == arm, 1.0 / p[:, 0], 0.0)) for arm in range(CANDIDATES))
    pairs = [(a, b) for a in range(CANDIDATES) for b in range(CANDIDATES) if a != b]
    assert all(is_one(np.where((first == a) & (second == b), 1.0 / p.prod(axis=1), 0.0)) for a, b in pairs)
    # Known bad: one distribution for all decisions, that of the first.
    best = int(vectors.mean(axis=0).argmax())
    assert not is_one(np.where(first == best, 1.0 / vectors[vectors[:, best].argmin(), best], 0.0))
