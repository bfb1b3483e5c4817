"""Long candidate lists: who is drawn from, that all three users cut alike, and that a cut that cuts nothing changes nothing."""

import functools
import hashlib
import itertools
import json
from typing import Any

import jax
import numpy as np
import pytest

from bandits.catalog import PolicySpec, build
from bandits.loaded import encode_snapshot
from bandits.policy import Batch, Candidates, Dims
from bandits.preselection import shortlist
from bandits.programs import run_decide, run_marginals, run_numerators, run_prepare, update_program
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from bandits.slates import joint_propensities
from bandits.snapshots import MANIFEST_FILE, Draft, decode

DIMS = Dims(actions=10_000, context=4, features=2)
MOST, WIDTH, SLOTS = 64, 10_000, 3


def spec(name: str = "linear_thompson", *, preselect: int = MOST, dims: Dims = DIMS, **more: Any) -> PolicySpec:
    return PolicySpec.of(name, {}, floor=0.05, dims=dims, preselect=preselect, **more)


@functools.cache
def params(which: PolicySpec) -> Any:
    """A policy that has seen one row of each of some actions."""
    rng, d = np.random.default_rng(0), which.dims
    n = min(d.actions, 512)
    batch = Batch.of(rng.normal(size=(n, 4)), rng.permutation(d.actions)[:n], rng.normal(size=n), features=rng.normal(size=(n, d.features)))
    policy = build(which)
    return run_prepare(which, update_program(which)(policy.init(), batch))


def requests(n: int, width: int, dims: Dims = DIMS) -> Requests:
    rng = np.random.default_rng(n)
    return Requests.of(
        rng.normal(size=(n, 4)),
        rng.permutation(dims.actions)[:width],
        features=rng.normal(size=(n, width, dims.features)),
        eligible=rng.random((n, width)) < 0.9,
        slots=SLOTS,
        draw_key=rng.integers(0, 1 << 32, (n, 2), dtype=np.uint32),
    )


def promise(which: PolicySpec, every: Requests, row: int) -> np.ndarray:
    """mean + scale of each candidate, -inf where not eligible."""
    candidates = Candidates(every.actions[row], every.features[row].astype(np.float64), every.scores[row])
    scores = build(which).score(params(which), every.context[row].astype(np.float64), candidates, jax.random.key(0))
    return np.where(every.eligible[row], np.asarray(scores.mean + scores.scale), -np.inf)


def test_of_ten_thousand_candidates_the_best_are_drawn_from_and_the_others_have_probability_zero() -> None:
    which, every = spec(), requests(4, WIDTH)
    drawn = run_decide(which, params(which), every, slots=SLOTS)
    for row in range(4):
        best = set(np.argsort(-promise(which, every, row), kind="stable")[:MOST].tolist())
        assert set(drawn.slates[row].tolist()) <= best
    again = run_numerators(which, params(which), every, drawn.slates)
    np.testing.assert_allclose(again.numerators / DENOMINATOR, drawn.numerators / DENOMINATOR, rtol=0, atol=3e-7)
    np.testing.assert_array_equal(again.mean, drawn.mean)
    assert drawn.numerators.min() > 0


def test_the_probabilities_of_ten_thousand_candidates_add_up_over_the_shortlist() -> None:
    which, one = spec(), Requests(*(np.repeat(column, 1000, axis=0) for column in requests(1, WIDTH)))
    order = np.argsort(-promise(which, one, 0), kind="stable")
    numerators = run_numerators(which, params(which), one, order[:1000, None].astype(np.int32)).numerators[:, 0]
    assert np.all(numerators[:MOST] > 0) and not numerators[MOST:].any()
    assert int(numerators.astype(np.int64).sum()) == DENOMINATOR


def test_a_slate_with_an_item_outside_the_shortlist_has_numerator_zero_there_only() -> None:
    which, every = spec(), requests(1, WIDTH)
    order = np.argsort(-promise(which, every, 0), kind="stable")
    slate = np.array([[order[0], order[MOST + 5], order[1]]], np.int32)
    found = run_numerators(which, params(which), every, slate)
    assert (found.numerators[0] > 0).tolist() == [True, False, True]
    # What is reported of the item is its own mean all the same.
    assert found.mean[0, 1] + found.scale[0, 1] == pytest.approx(promise(which, every, 0)[slate[0, 1]], rel=1e-12)


SMALL = Dims(actions=40, context=4, features=2)


@pytest.mark.parametrize("name", ["linear_thompson", "softmax"])
def test_a_shortlist_that_holds_every_eligible_candidate_changes_no_slate(name: str) -> None:
    """Of 40 candidates 25 may be eligible: a shortlist of 30 holds them all, and the draw falls on the same ones."""
    cut, whole = spec(name, preselect=30, dims=SMALL), spec(name, preselect=0, dims=SMALL)
    every = requests(16, 40, SMALL)._replace(eligible=np.random.default_rng(1).random((16, 40)).argsort(axis=1) < 25)
    one, other = (run_decide(which, params(which), every, slots=SLOTS) for which in (cut, whole))
    np.testing.assert_array_equal(one.slates, other.slates)
    np.testing.assert_allclose(one.numerators / DENOMINATOR, other.numerators / DENOMINATOR, rtol=0, atol=1e-6)


def test_ties_go_by_the_order_in_the_request_and_numbers_that_are_not_finite_come_last() -> None:
    policy = build(spec("ranker"))

    def score(params: Any, context: Any, candidates: Candidates, key: Any) -> Any:
        return plain_score(params, context, candidates, key)._replace(mean=candidates.score)

    plain_score, policy = policy.score, policy._replace(score=score)
    ranks = np.array([1.0, 2.0, np.nan, 2.0, 2.0, 5.0, 1.0])
    candidates = Candidates(np.arange(7, dtype=np.int32), np.zeros((7, 2)), ranks)
    eligible = np.array([1, 1, 1, 1, 1, 0, 1], bool)

    def places(most: int) -> list[int]:
        found = shortlist(policy, policy.prepare(policy.init()), np.zeros(4), candidates, jax.random.key(0), eligible=eligible, most=most)
        assert found.places is not None
        return np.asarray(found.places).tolist()

    assert places(2) == [1, 3] and places(3) == [1, 3, 4] and places(4) == [0, 1, 3, 4] and places(6) == [0, 1, 2, 3, 4, 6]


def test_a_policy_whose_scores_rank_nothing_is_never_cut() -> None:
    assert spec("uniform").preselect == 0 and spec("ranker").preselect == 0 and spec().preselect == MOST


def test_a_masked_candidate_is_in_no_shortlist_and_gets_no_floor() -> None:
    masked = spec(dims=SMALL, preselect=30, wrappers=[{"name": "mask", "never": list(range(0, 40, 2))}])
    every = requests(32, 40, SMALL)
    drawn = run_decide(masked, params(masked), every, slots=SLOTS)
    assert np.all(every.actions[np.arange(32)[:, None], drawn.slates] % 2 == 1)
    even = np.argmax((every.actions % 2 == 0) & every.eligible, axis=1)[:, None].astype(np.int32)
    assert not run_numerators(masked, params(masked), every, even).numerators.any()


def test_a_request_whose_every_candidate_is_masked_gets_an_empty_slate() -> None:
    masked = spec(dims=SMALL, wrappers=[{"name": "mask", "never": list(range(40))}])
    drawn = run_decide(masked, params(masked), requests(2, 40, SMALL), slots=SLOTS)
    assert np.all(drawn.slates == -1) and not drawn.numerators.any()


def test_a_snapshot_from_before_wrappers_and_cuts_loads_as_it_was() -> None:
    """Its manifest says nothing of them: none, and no cut, so its logged decisions are derived as they were drawn."""
    which = spec("linear_thompson", dims=SMALL, wrappers=[{"name": "mask", "never": [3]}])
    about = {"tenant": "t", "task": "t", "schema_digest": "", "config_digest": "", "kind": "first", "created_us": 1}
    draft = Draft(spec=which, state=build(which).init(), manifest={**about, "actions": tuple(map(str, range(40)))})
    digest, files = encode_snapshot(draft)
    assert decode(digest, files).manifest.spec == which
    manifest = json.loads(files[MANIFEST_FILE])
    for newer in ("wrappers", "preselect", "providers"):
        del manifest[newer]
    text = json.dumps(manifest).encode()
    old = decode(hashlib.sha256(text).hexdigest(), {**files, MANIFEST_FILE: text}).manifest.spec
    assert old == which._replace(wrappers="[]", preselect=0)


def test_marginals_of_a_cut_list_are_zero_outside_it_and_those_of_its_slates_inside() -> None:
    cut, every = spec(dims=SMALL, preselect=5), requests(2, 12, SMALL)
    found = run_marginals(cut, params(cut), every, slots=2, walks=64)
    assert found.anywhere.shape == (2, 12) and found.in_slot.shape == (2, 2, 12) and not found.anywhere_error.any()
    pairs = np.array(list(itertools.permutations(range(12), 2)), np.int32)
    for row in range(2):
        one = Requests(*(np.repeat(column[row : row + 1], len(pairs), axis=0) for column in every))
        joint = joint_propensities(run_numerators(cut, params(cut), one, pairs).numerators, pairs)
        anywhere = [joint[(pairs == item).any(axis=1)].sum() for item in range(12)]
        np.testing.assert_allclose(found.anywhere[row], anywhere, rtol=0, atol=3e-7)
        assert np.count_nonzero(found.anywhere[row]) == 5
