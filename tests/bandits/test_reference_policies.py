"""Policies that learn nothing: declared probabilities, and the ranker whose scores come with the candidates."""

import itertools
from typing import Any

import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.errors import PolicyError
from bandits.policy import Dims
from bandits.programs import run_numerators, run_prepare
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from protos.errors import ConfigError

DIMS = Dims(actions=4, context=0, features=0)
PAIRS = np.array(list(itertools.permutations(range(4), 2)), np.int32)
LOGITS = np.array([0.5, -1.0, 2.0, 0.0])


def propensities(name: str, settings: dict[str, Any], slates: np.ndarray, **columns: Any) -> np.ndarray:
    """Conditional propensities f64[n, L] of slates of one request, through the program that serves, without a floor."""
    spec = PolicySpec.of(name, settings, floor=0.0, dims=DIMS)
    n = len(slates)
    tiled = {key: np.tile(value, (n, 1)) for key, value in columns.items()}
    requests = Requests.of(np.zeros((n, 0)), tiled.pop("actions", np.arange(4)), slots=2, **tiled)
    return run_numerators(spec, run_prepare(spec, build(spec).init()), requests, slates).numerators / DENOMINATOR


def plackett_luce(weights: np.ndarray, slate: np.ndarray) -> float:
    """Joint probability of an ordered slate: prod_l w_l / (sum of the weights not yet drawn)."""
    left, joint = weights.sum(), 1.0
    for place in slate:
        joint, left = joint * weights[place] / left, left - weights[place]
    return joint


def test_fixed_probabilities_are_drawn_as_declared_and_rescaled_to_what_is_eligible() -> None:
    declared = np.array([0.1, 0.2, 0.3, 0.4])
    found = propensities("fixed", {"probabilities": declared.tolist()}, PAIRS)
    np.testing.assert_allclose(found[:, 0], declared[PAIRS[:, 0]], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.prod(axis=1), [plackett_luce(declared, pair) for pair in PAIRS], rtol=0, atol=1e-8)
    eligible = np.array([True, False, True, False])
    some = propensities("fixed", {"probabilities": declared.tolist()}, PAIRS[:6], eligible=eligible)
    np.testing.assert_allclose(some[:3, 0], 0.25, rtol=0, atol=1e-8)


def test_an_action_that_the_table_lacks_has_its_declared_weight() -> None:
    given = {"probabilities": [0.25] * 4, "cold_weight": 0.5}
    found = propensities("fixed", given, np.array([[1, -1], [0, -1]], np.int32), actions=np.array([2, 4]))
    np.testing.assert_allclose(found[:, 0], [2 / 3, 1 / 3], rtol=0, atol=1e-8)


def test_without_any_declared_weight_left_the_draw_is_even() -> None:
    given = {"probabilities": [1.0, 0.0, 0.0, 0.0]}
    found = propensities("fixed", given, PAIRS[:3])
    np.testing.assert_allclose(found[:, 0], 1.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[:, 1], 1 / 3, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("probabilities", "said"), [([0.5, 0.5], "4 rows"), ([0.5, 0.5, 0.5, -0.5], ">= 0"), ([0.3, 0.3, 0.3, 0.3], "sum to 1.2")]
)
def test_probabilities_that_are_no_distribution_over_the_table_are_refused(probabilities: list[float], said: str) -> None:
    with pytest.raises(PolicyError, match=said) as refused:
        build(PolicySpec.of("fixed", {"probabilities": probabilities}, floor=0.05, dims=DIMS))
    assert "policy.settings.probabilities" in str(refused.value)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_slates_of_the_ranker_are_plackett_luce_on_its_scores(temperature: float) -> None:
    found = propensities("ranker", {"temperature": temperature}, PAIRS, scores=LOGITS).prod(axis=1)
    expected = [plackett_luce(np.exp(LOGITS / temperature), pair) for pair in PAIRS]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert found.sum() == pytest.approx(1.0, abs=1e-7)


def test_the_best_of_the_ranker_is_taken_slot_by_slot_and_ties_share() -> None:
    found = propensities("ranker", {"draw": "best"}, np.array([[2, 0], [0, 2]], np.int32), scores=LOGITS)
    np.testing.assert_allclose(found, [[1.0, 1.0], [0.0, 1.0]], rtol=0, atol=1e-8)
    tied = propensities("ranker", {"draw": "best"}, PAIRS[:1], scores=np.ones(4))
    np.testing.assert_allclose(tied, [[1 / 4, 1 / 3]], rtol=0, atol=1e-8)


def test_a_score_that_is_not_finite_counts_as_none() -> None:
    broken, plain = (propensities("ranker", {}, PAIRS, scores=LOGITS * [1, 1, worst, 1]) for worst in (np.nan, 0.0))
    np.testing.assert_array_equal(broken, plain)


def test_a_way_to_draw_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"policy\.settings\.draw"):
        PolicySpec.of("ranker", {"draw": "greedy"}, floor=0.05, dims=DIMS)
