"""Numerators out of 2^31: what must hold whatever the probabilities are, and the draw from them."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.quantise import DENOMINATOR, pick, pick_index, quantise

# One compiled shape on either side of the boundary between ranks by pairs (up to 64 candidates) and ranks by sorting.
WIDTHS = (8, 64, 65, 100)
compiled = jax.jit(quantise)
compiled_pick = jax.jit(pick)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities up to a factor, of very different sizes, and a mask with at least one candidate."""
    width = draw(st.sampled_from(WIDTHS))
    magnitudes = st.one_of(st.just(0.0), st.floats(0.0, 1.0), st.floats(1e-300, 1e-6), st.sampled_from([1 / 3, 0.1, 2.0**-31, 1e12]))
    p = draw(hypothesis.extra.numpy.arrays(np.float64, width, elements=magnitudes))
    mask = draw(hypothesis.extra.numpy.arrays(np.bool_, width))
    mask[draw(st.integers(0, width - 1))] = True
    return p, mask


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(problems())
def test_the_sum_is_exact_every_eligible_candidate_has_one_and_errors_are_bounded(problem: tuple[np.ndarray, np.ndarray]) -> None:
    p, mask = problem
    numerators = np.asarray(compiled(p, mask))
    assert numerators.dtype == np.uint32
    assert int(numerators.sum(dtype=np.int64)) == DENOMINATOR == 2**31
    assert np.all(numerators[mask] >= 1) and np.all(numerators[~mask] == 0)
    kept = np.where(mask, p, 0.0)
    wanted = kept / kept.sum() if kept.sum() > 0.0 else mask / mask.sum()
    assert np.abs(numerators / DENOMINATOR - wanted).max() <= (mask.sum() + 1) / DENOMINATOR


@pytest.mark.parametrize("width", WIDTHS)
def test_a_larger_probability_never_has_a_smaller_numerator(width: int) -> None:
    p = np.random.default_rng(width).dirichlet(np.full(width, 0.1))
    order = np.argsort(p)
    assert np.all(np.diff(np.asarray(compiled(p, np.ones(width, bool)))[order].astype(np.int64)) >= 0)


@pytest.mark.parametrize("bad", [np.nan, 0.0, np.inf])
def test_a_vector_that_is_no_distribution_becomes_uniform(bad: float) -> None:
    mask = np.array([True, False, True, True, True, False, False, False])
    numerators = np.asarray(compiled(np.where(np.arange(8) == 2, bad, bad if bad == 0.0 else 0.3), mask))
    np.testing.assert_array_equal(numerators, np.where(mask, DENOMINATOR // 4, 0))


def test_nothing_eligible_gives_zeros() -> None:
    np.testing.assert_array_equal(compiled(np.ones(8), np.zeros(8, bool)), np.zeros(8))


def test_one_candidate_has_all() -> None:
    np.testing.assert_array_equal(compiled(np.zeros(8), np.arange(8) == 5), np.where(np.arange(8) == 5, DENOMINATOR, 0))


def test_ranks_by_pairs_and_by_sorting_give_the_same_numerators() -> None:
    """The same problem, padded over the boundary: ties included."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.choice([0.1, 0.2, 1 / 3, 1 / 7], 64) if rng.random() < 0.5 else rng.dirichlet(np.ones(64))
        mask = rng.random(64) < 0.8
        pairs = np.asarray(compiled(p, mask))
        sort = np.asarray(compiled(np.pad(p, (0, 1)), np.pad(mask, (0, 1))))
        np.testing.assert_array_equal(pairs, sort[:64])


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(problems(), st.integers(0, DENOMINATOR - 1))
def test_every_draw_hits_the_candidate_whose_interval_holds_it(problem: tuple[np.ndarray, np.ndarray], draw: int) -> None:
    p, mask = problem
    numerators = np.asarray(compiled(p, mask))
    index = int(compiled_pick(numerators, np.uint32(draw)))
    assert mask[index]
    below = int(numerators[:index].sum(dtype=np.int64))
    assert below <= draw < below + int(numerators[index])
    assert index == int(pick_index(np, numerators, np.uint32(draw)))


def test_the_ends_of_every_interval_are_hit_right() -> None:
    numerators = np.asarray(compiled(np.array([0.0, 0.5, 1e-12, 0.3, 0.0, 0.2, 0.0, 0.0]), np.array([0, 1, 1, 1, 0, 1, 1, 0], bool)))
    ends = np.cumsum(numerators, dtype=np.int64)
    for index in np.flatnonzero(numerators):
        for draw in {int(ends[index] - numerators[index]), int(ends[index]) - 1}:
            assert int(compiled_pick(numerators, np.uint32(draw))) == int(pick_index(np, numerators, np.uint32(draw))) == index


def test_float32_probabilities_are_taken() -> None:
    numerators = np.asarray(compiled(jnp.asarray([0.25, 0.75], jnp.float32), np.ones(2, bool)))
    assert int(numerators.sum(dtype=np.int64)) == DENOMINATOR
