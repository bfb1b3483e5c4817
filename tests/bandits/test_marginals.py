"""Conditional, joint and marginal propensities of every policy of the catalog against all ordered slates, one by one."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.marginals import Marginals, exact_marginals, marginals, ordered_slates, sampled_marginals
from bandits.policy import Batch, Candidates, Dims
from bandits.programs import run_numerators, run_prepare
from bandits.requests import Requests
from bandits.slates import joint_propensities
from tests.bandits.catalog_cases import by_kind

DIMS = Dims(actions=5, context=3, features=2)
WIDTH, SLOTS = 5, 3
ALL = np.array(list(itertools.permutations(range(WIDTH), SLOTS)), np.int32)
ELIGIBLE = np.array([1, 1, 1, 0, 1], bool)
KEY = np.array([7, 11], np.uint32)


class Case:
    """A policy that has learned a little, at one request."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(3)
        self.spec = PolicySpec.of(name, {}, floor=0.05, dims=DIMS)
        self.policy = build(self.spec)
        batch = Batch.of(rng.normal(size=(40, 3)), rng.integers(0, 5, 40), rng.normal(size=40), features=rng.normal(size=(40, 2)))
        self.params = run_prepare(self.spec, jax.jit(self.policy.update)(self.policy.init(), batch))
        self.context = rng.normal(size=3).astype(np.float32)
        self.features = rng.normal(size=(WIDTH, 2)).astype(np.float32)
        self.ranks = rng.normal(size=WIDTH)

    def scores(self, params: Any = None) -> Any:
        candidates = Candidates(jnp.arange(WIDTH, dtype=jnp.int32), jnp.asarray(self.features, jnp.float64), jnp.asarray(self.ranks))
        key = jax.random.wrap_key_data(jnp.asarray(KEY), impl="threefry2x32")
        return self.policy.score(self.params if params is None else params, jnp.asarray(self.context, jnp.float64), candidates, key)

    def conditional(self, slates: np.ndarray) -> np.ndarray:
        """Numerators u32[n, L] of the slates, by the compiled program that evaluation calls."""
        n = len(slates)
        requests = Requests.of(
            np.tile(self.context, (n, 1)),
            np.arange(WIDTH),
            features=np.tile(self.features, (n, 1, 1)),
            scores=np.tile(self.ranks, (n, 1)),
            eligible=np.tile(ELIGIBLE, (n, 1)),
            draw_key=np.tile(KEY, (n, 1)),
        )
        return run_numerators(self.spec, self.params, requests, slates).numerators


@functools.cache
def case(name: str) -> Case:
    return Case(name)


@functools.cache
def enumerated(name: str) -> Marginals:
    of = jax.jit(lambda params, mask: exact_marginals(case(name).policy, case(name).scores(params), mask, slots=SLOTS))
    return of(case(name).params, ELIGIBLE)


def brute_force(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(k anywhere) and P(k in slot l) from the joint propensities of all ordered slates."""
    in_slot = np.array([[joint[ALL[:, slot] == item].sum() for item in range(WIDTH)] for slot in range(SLOTS)])
    anywhere = np.array([joint[(item == ALL).any(axis=1)].sum() for item in range(WIDTH)])
    return anywhere, in_slot


@pytest.mark.parametrize("name", by_kind())
def test_conditional_joint_and_marginal_propensities_agree_over_all_slates(name: str) -> None:
    joint = joint_propensities(case(name).conditional(ALL), ALL)
    assert joint.sum() == pytest.approx(1.0, abs=1e-8)
    assert not joint[(ALL == 3).any(axis=1)].any()
    found = enumerated(name)
    for got, wanted in zip(found[:2], brute_force(joint), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-7)
    np.testing.assert_allclose(np.asarray(found.in_slot).sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert float(jnp.sum(found.anywhere)) == pytest.approx(SLOTS, abs=1e-12)


@functools.cache
def by_walks(walks: int) -> Marginals:
    name = "linear_thompson"
    of = jax.jit(lambda params, mask: sampled_marginals(case(name).policy, case(name).scores(params), mask, KEY, slots=SLOTS, walks=walks))
    return of(case(name).params, ELIGIBLE)


def agrees(found: Marginals, exact: Marginals) -> bool:
    """The checker: every number within 6 of its standard errors (false alarm 2e-9 each, 20 numbers); two programs agree within 1e-8."""
    pairs = ((found.anywhere, exact.anywhere, found.anywhere_error), (found.in_slot, exact.in_slot, found.in_slot_error))
    return all(bool(np.all(np.abs(a - b) <= 6.0 * error + 1e-8)) for a, b, error in pairs)


def test_walks_are_unbiased_within_their_stated_error_and_exact_in_the_top_slot() -> None:
    exact = enumerated("linear_thompson")
    found = by_walks(2000)
    assert agrees(found, exact)
    assert np.all(found.in_slot_error[0] < 1e-12) and np.all(
        found.anywhere_error <= np.sqrt(exact.anywhere * (1.0 - exact.anywhere) / 1999)
    )
    assert 0.0 < float(found.anywhere_error.max()) < 0.01


def test_the_error_of_walks_falls_with_their_number() -> None:
    assert float(by_walks(2000).anywhere_error.max()) < 0.5 * float(by_walks(200).anywhere_error.max())


def test_walks_that_repeat_the_top_slot_are_found() -> None:
    """Known bad: the second slot's marginal taken from the first slot's vector."""
    exact = enumerated("linear_thompson")
    found = by_walks(2000)
    assert not agrees(found._replace(in_slot=found.in_slot.at[1].set(found.in_slot[0])), exact)


@pytest.mark.parametrize(("candidates", "slots", "count"), [(5, 3, 60), (28, 3, 19_656), (8, 8, 40_320), (3, 9, 6), (0, 2, 1)])
def test_how_many_ordered_slates_there_are(candidates: int, slots: int, count: int) -> None:
    assert ordered_slates(candidates, slots) == count


def test_many_slates_are_walked_and_few_enumerated() -> None:
    uniform = build(PolicySpec.of("uniform", {}, floor=0.05, dims=DIMS))

    def of(width: int, slots: int) -> Marginals:
        scores = uniform.score(uniform.init(), jnp.zeros(3), Candidates.of(jnp.zeros(width, jnp.int32)), jax.random.key(0))
        return jax.jit(lambda mask: marginals(uniform, scores, mask, KEY, slots=slots, walks=64))(jnp.ones(width, bool))

    few, many = of(4, 6), of(40, 3)
    assert not np.any(few.anywhere_error) and np.any(many.anywhere_error > 0.0)
    np.testing.assert_allclose(few.anywhere, 1.0, rtol=0, atol=1e-12)
    assert np.all(few.in_slot[4:] == 0.0)
    np.testing.assert_allclose(many.anywhere, 3.0 / 40.0, rtol=0, atol=6 * float(many.anywhere_error.max()) + 1e-8)
