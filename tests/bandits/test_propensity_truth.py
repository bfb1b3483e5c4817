"""The logged propensity is the probability that was used: frequencies of the real compiled program against what it logged.

200,000 draws a policy from decision ids that are fixed by their request ids. An arm passes within 4 standard errors (two-sided
6e-5 an arm; some 40 comparisons in all: false alarm 3e-3, and none for these ids). It would see a propensity that is off by 0.5 %.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.stats

from bandits.catalog import CATALOG, PolicySpec, build
from bandits.keys import decision_id, draw_key
from bandits.policy import Batch, Dims
from bandits.programs import run_decide, run_numerators, run_prepare, update_program
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from tests.bandits.catalog_cases import by_kind

DIMS = Dims(actions=4, context=3, features=0)
DRAWS, CANDIDATES, SLOTS = 200_000, 5, 2
# More slots than there are eligible candidates.
LONGEST = 6
PAIRS = np.array(list(itertools.permutations(range(4), 2)), np.int32)
# The first slot alone: what stands behind it has no say. Of the width of the pairs, so that one program serves both.
SINGLES = np.column_stack([np.arange(CANDIDATES), np.full(CANDIDATES, -1)]).astype(np.int32)
# Rows of the smaller requests: one compiled shape for all of them.
FEW = 64
CONTEXT = np.array([0.4, -1.0, 0.7], np.float32)
# What the checkers must find is found in a few kinds of vector: by quadrature, by a rule, on a grid.
KNOWN_BAD = ("linear_thompson", "linear_ucb", "beta_bernoulli")


class Drawn(NamedTuple):
    """What the program drew and logged: `slates` i32[n, L], `propensities` f64[n, L], `vector` f64[K] the first slot's."""

    slates: np.ndarray
    propensities: np.ndarray
    vector: np.ndarray


def requests(n: int, **changes: np.ndarray) -> Requests:
    """One request n times, with the keys of n decisions; the last candidate is not eligible, the one before it is unknown."""
    columns = {
        "context": np.tile(CONTEXT, (n, 1)),
        "actions": np.tile(np.array([0, 1, 2, DIMS.actions, 3], np.int32), (n, 1)),
        "features": np.zeros((n, CANDIDATES, 0), np.float32),
        "scores": np.zeros((n, CANDIDATES)),
        "eligible": np.tile(np.array([1, 1, 1, 1, 0], bool), (n, 1)),
        "slots": np.full(n, SLOTS, np.int32),
        "draw_key": keys(n),
    }
    return Requests(**{**columns, **changes})


@functools.cache
def keys(n: int) -> np.ndarray:
    names = (decision_id(tenant="t", task="t", request_id=str(number), arm="champion", snapshot_digest="0") for number in range(n))
    return np.stack([draw_key(name) for name in names])


def spec(name: str, floor: float = 0.05) -> PolicySpec:
    return PolicySpec.of(name, {}, floor=floor, dims=DIMS)


@functools.cache
def params(name: str) -> Any:
    """Of a policy that has learned a little: the arms differ, none is out of the race."""
    rng = np.random.default_rng(5)
    context, action = rng.normal(size=(60, 3)), rng.integers(0, 4, 60).astype(np.int32)
    reward = 0.3 * action + context[:, 0] + rng.normal(size=60)
    policy = build(spec(name))
    return run_prepare(spec(name), update_program(spec(name))(policy.init(), Batch.of(context, action, reward)))


@functools.cache
def drawn_by(name: str) -> Drawn:
    outputs = run_decide(spec(name), params(name), requests(DRAWS), slots=SLOTS)
    return Drawn(outputs.slates, outputs.numerators / DENOMINATOR, propensities_of(spec(name), params(name), SINGLES)[:, 0])


@pytest.fixture(params=sorted(name for name, entry in CATALOG.items() if not entry.keyed))
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return drawn_by(request.param)


def propensities_of(which: PolicySpec, learned: Any, slates: np.ndarray) -> np.ndarray:
    """Conditional propensities f64[n, L] of given slates i32[n, L], n <= FEW, of the one request."""
    padded = np.pad(slates, ((0, FEW - len(slates)), (0, 0)), mode="edge")
    return run_numerators(which, learned, requests(FEW), padded).numerators[: len(slates)] / DENOMINATOR


def frequencies_agree(slates: np.ndarray, propensities: np.ndarray, vector: np.ndarray) -> bool:
    """The checker. Each arm is drawn in the top slot as often as `vector` says, what is logged is its entry of `vector`, and the
    inverse-propensity mean of drawing it is 1, all within 4 standard errors."""
    for arm in range(CANDIDATES):
        drawn = slates[:, 0] == arm
        error = np.sqrt(vector[arm] * (1.0 - vector[arm]) / len(drawn))
        weights = np.where(drawn, 1.0 / propensities[:, 0], 0.0)
        frequency_agrees = abs(drawn.mean() - vector[arm]) <= 4.0 * error
        mean_is_one = not drawn.any() or abs(weights.mean() - 1.0) <= 4.0 * weights.std() / np.sqrt(len(drawn))
        if not (frequency_agrees and mean_is_one and np.allclose(propensities[drawn, 0], vector[arm], rtol=0, atol=1e-9)):
            return False
    return True


def joint_agrees(slates: np.ndarray, propensities: np.ndarray) -> bool:
    """The checker of slates: chi-square of all ordered pairs against the product of what is logged; false alarm 1e-6."""
    codes, first, counts = np.unique(slates @ [CANDIDATES, 1], return_index=True, return_counts=True)
    expected = propensities[first].prod(axis=1) * len(slates)
    missing = len(slates) - expected.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum() + max(missing, 0.0))
    return bool(scipy.stats.chi2.sf(statistic, len(codes) - 1) > 1e-6 and abs(missing) < 0.01 * len(slates))


def test_frequencies_are_the_logged_propensities(drawn: Drawn) -> None:
    assert drawn.vector.sum() == 1.0 and drawn.vector[4] == 0.0
    assert frequencies_agree(drawn.slates, drawn.propensities, drawn.vector)


def test_every_slate_has_its_joint_propensity(drawn: Drawn) -> None:
    np.testing.assert_array_equal(np.unique(drawn.slates @ [CANDIDATES, 1]), np.unique(PAIRS @ [CANDIDATES, 1]))
    assert joint_agrees(drawn.slates, drawn.propensities)


@pytest.mark.parametrize("name", KNOWN_BAD)
def test_a_logger_of_one_is_found(name: str) -> None:
    drawn = drawn_by(name)
    ones = np.ones_like(drawn.propensities)
    assert not frequencies_agree(drawn.slates, ones, drawn.vector)
    assert not frequencies_agree(drawn.slates, ones, np.eye(CANDIDATES)[2])
    assert not joint_agrees(drawn.slates, ones)


def test_a_logger_of_the_probability_before_the_floor_is_found() -> None:
    learned, drawn, bare = params("linear_thompson"), drawn_by("linear_thompson"), spec("linear_thompson", 0.0)
    of_pair = dict(zip(map(tuple, PAIRS.tolist()), propensities_of(bare, learned, PAIRS), strict=True))
    wrong = np.array([of_pair[pair] for pair in map(tuple, drawn.slates.tolist())])
    assert not frequencies_agree(drawn.slates, wrong, propensities_of(bare, learned, SINGLES)[:, 0])
    assert not joint_agrees(drawn.slates, wrong)


@pytest.mark.parametrize("name", KNOWN_BAD)
def test_a_logger_that_does_not_mask_what_was_drawn_is_found(name: str) -> None:
    """Known bad: the second slot's propensity read from the first slot's vector."""
    drawn = drawn_by(name)
    wrong = np.column_stack([drawn.propensities[:, 0], drawn.vector[drawn.slates[:, 1]]])
    assert frequencies_agree(drawn.slates, wrong, drawn.vector) and not joint_agrees(drawn.slates, wrong)


@pytest.mark.parametrize("name", by_kind())
def test_forced_slots_have_propensity_one(name: str) -> None:
    """A slate of all eligible candidates: the last slot has one candidate left; a request with one candidate is all forced."""
    outputs = run_decide(spec(name), params(name), requests(FEW, slots=np.full(FEW, 4, np.int32)), slots=LONGEST)
    assert np.all(outputs.numerators[:, 3] == DENOMINATOR) and np.all(np.sort(outputs.slates[:, :4], axis=1) == np.arange(4))
    alone = requests(FEW, eligible=np.tile(np.arange(5) == 3, (FEW, 1)), slots=np.ones(FEW, np.int32))
    outputs = run_decide(spec(name), params(name), alone, slots=LONGEST)
    assert np.all(outputs.slates[:, 0] == 3) and np.all(outputs.numerators[:, 0] == DENOMINATOR)
    assert np.all(outputs.slates[:, 1:] == -1) and np.all(outputs.numerators[:, 1:] == 0)


@pytest.mark.parametrize("name", by_kind())
def test_a_slate_longer_than_its_candidates_ends_where_they_end(name: str) -> None:
    outputs = run_decide(spec(name), params(name), requests(FEW, slots=np.full(FEW, LONGEST, np.int32)), slots=LONGEST)
    assert np.all(outputs.slates[:, :4] >= 0) and np.all(outputs.slates[:, 4:] == -1) and np.all(outputs.numerators[:, 4:] == 0)


@pytest.mark.parametrize("name", by_kind())
def test_the_propensity_of_a_drawn_slate_is_what_was_logged(name: str) -> None:
    every, learned = requests(FEW), params(name)
    outputs = run_decide(spec(name), learned, every, slots=SLOTS)
    again = run_numerators(spec(name), learned, every, outputs.slates)
    np.testing.assert_allclose(again.numerators.astype(float), outputs.numerators, rtol=0, atol=DENOMINATOR * 3e-7)
    np.testing.assert_array_equal(again.mean, outputs.mean)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_an_impossible_slate_has_propensity_zero(name: str) -> None:
    impossible = np.array([[4, 0], [1, 1], [0, -1], [-1, 0], [6, 0]], np.int32)
    propensities = propensities_of(spec(name), params(name), impossible)
    assert np.all((propensities > 0) == [[False, True], [True, False], [True, False], [False, True], [False, True]])


def test_all_slates_of_a_request_sum_to_one() -> None:
    propensities = propensities_of(spec("linear_thompson"), params("linear_thompson"), PAIRS)
    assert propensities.prod(axis=1).sum() == pytest.approx(1.0, abs=1e-8)
