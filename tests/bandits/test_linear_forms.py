"""The linear family against its definition, row by row: disjoint, shared and hybrid; with squares and declared products."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bandits.errors import PolicyError
from bandits.policies.linear_design import design_of, standard_of
from bandits.policies.linear_form import LinearModel, disjoint, hybrid, shared
from bandits.policies.linear_posterior import GaussianScores, Moments, grown
from bandits.policies.linear_thompson import linear_thompson, linear_thompson_hybrid, linear_thompson_shared
from bandits.policies.linear_ucb import linear_ucb
from bandits.policies.posterior_draws import joint_scores, normals, win_frequencies
from bandits.policy import Batch, Candidates, Dims
from tests.bandits.linear_reference import Columns, LinearReference, linear_reference

DIMS, PADDED = Dims(actions=4, context=3, features=2), 200
PAIRS = ((0, 0), (2, 1))
ACTIONS = np.array([0, 1, 2, 3, 4, 2], np.int32)  # 3 never comes, 4 is unknown, 2 stands twice with other features
FEATURES = np.random.default_rng(9).normal(size=(6, 2)) * [1.0, 5.0] + [0.0, 20.0]
CONTEXT = np.array([0.3, 55.0, -1.1])


class Form(NamedTuple):
    """A form of the model and what the reference must be told of it."""

    model: LinearModel
    own_blocks: bool
    features: bool
    squares: bool
    pairs: tuple[tuple[int, int], ...]


@functools.cache
def form(name: str) -> Form:
    more: dict[str, Any] = {"prior_scale": 0.7, "interactions": PAIRS}
    forms = {
        "disjoint": lambda: Form(disjoint(DIMS, prior_scale=0.7, basis="squares"), True, False, True, ()),
        "shared": lambda: Form(shared(DIMS, basis="linear", **more), False, True, False, PAIRS),
        "hybrid": lambda: Form(hybrid(DIMS, basis="squares", **more), True, True, True, PAIRS),
    }
    return forms[name]()


# The product behind a deviation is taken in float32; measured: 2e-8 to 7e-8.
DEVIATION = 3e-7
FORMS = ("disjoint", "shared", "hybrid")


def rows(n: int, *, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(n, 3)) * [1.0, 10.0, 0.1] + [0.0, 50.0, -1.0]
    features = rng.normal(size=(n, 2)) * [1.0, 5.0] + [0.0, 20.0]
    action = rng.integers(0, DIMS.actions - 1, n)
    return Batch.of(context, action, context[:, 0] * features[:, 0] + action + rng.normal(size=n), features=features)


def padded(batch: Batch) -> Batch:
    extra = PADDED - batch.n_rows
    return Batch(*(np.pad(column, ((0, extra), *((0, 0),) * (column.ndim - 1))) for column in batch))


@functools.cache
def program(name: str) -> Any:
    model = form(name).model

    def run(batch: Batch, context: Any, candidates: Candidates) -> Moments:
        return model.moments(model.prepare(model.update(model.init(), batch)), context, candidates)

    return jax.jit(run)


def found(name: str, batch: Batch) -> Moments:
    return program(name)(padded(batch), CONTEXT, Candidates.of(ACTIONS, features=FEATURES))


def expected(name: str, batch: Batch) -> LinearReference:
    which = form(name)

    def columns(context: np.ndarray, features: np.ndarray, action: np.ndarray) -> Columns:
        return Columns(context, features if which.features else features[:, :0], action if which.own_blocks else np.zeros_like(action))

    seen = columns(batch.context, batch.features, batch.action)
    asked = columns(np.tile(CONTEXT, (6, 1)), FEATURES, ACTIONS)
    blocks = DIMS.actions + 1 if which.own_blocks else 1
    return linear_reference(seen, batch.reward, asked, blocks=blocks, squares=which.squares, pairs=which.pairs, prior_scale=0.7)


@pytest.mark.parametrize("n", [0, 1, 7, 200])
@pytest.mark.parametrize("name", FORMS)
def test_mean_and_scale_are_those_of_the_definition(name: str, n: int) -> None:
    batch = rows(n)
    got, wanted = found(name, batch), expected(name, batch)
    np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-8, atol=1e-8)
    # Rewards that do not vary leave a noise of zero here, and of 1e-50 there, so that scales still compare.
    np.testing.assert_allclose(got.scale, np.sqrt(np.diag(wanted.covariance)), rtol=DEVIATION, atol=1e-40)


@pytest.mark.parametrize("name", ["shared", "hybrid"])
def test_differences_between_candidates_covary_as_the_definition_says(name: str) -> None:
    batch, different = rows(120), np.array([0, 1, 2, 3, 4])  # candidates of different actions
    got, wanted = found(name, batch), expected(name, batch).covariance
    covariance = got.loading @ got.loading.T + (np.diag(got.own_scale**2) if form(name).own_blocks else 0.0)
    contrast = np.eye(5) - 1.0 / 5.0
    at = np.ix_(different, different)
    np.testing.assert_allclose(contrast @ covariance[at] @ contrast, contrast @ wanted[at] @ contrast, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("offset", [100.0, -1e4])
def test_the_origin_of_rewards_moves_every_mean_and_nothing_else(name: str, offset: float) -> None:
    batch = rows(60)
    plain, moved = found(name, batch), found(name, batch._replace(reward=batch.reward + offset))
    np.testing.assert_allclose(moved.mean - offset, plain.mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(moved.scale, plain.scale, rtol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_the_unit_of_rewards_is_the_unit_of_mean_and_scale(name: str) -> None:
    batch = rows(60)
    plain, larger = found(name, batch), found(name, batch._replace(reward=batch.reward * 1e3))
    np.testing.assert_allclose(larger.mean, 1e3 * plain.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(larger.scale, 1e3 * plain.scale, rtol=1e-9)


def test_a_disjoint_action_without_rows_stands_at_the_mean_of_all_rewards() -> None:
    batch = rows(60)
    got = found("disjoint", batch)
    np.testing.assert_allclose(got.mean[3:5], batch.reward.mean(), rtol=1e-12)
    assert got.scale[3] == got.scale[4] > np.max(got.scale[:3])


def test_a_shared_action_is_its_features_and_a_hybrid_one_learns_from_them_before_its_first_row() -> None:
    batch = rows(200)
    same = Candidates.of(np.array([0, 4] * 3, np.int32), features=np.tile(FEATURES[0], (6, 1)))
    of_shared, of_hybrid = (program(name)(padded(batch), CONTEXT, same) for name in ("shared", "hybrid"))
    np.testing.assert_array_equal(of_shared.mean[0], of_shared.mean[1])
    # A row's reward rises by context 0 times feature 0, and the unknown action's features are known.
    asked = Candidates.of(np.full(6, 4, np.int32), features=np.array([[-2.0, 20.0], [2.0, 20.0]] * 3))
    unknown = program("hybrid")(padded(batch), np.array([2.0, 50.0, -1.0]), asked)
    assert of_hybrid.scale[1] > of_hybrid.scale[0] and unknown.mean[1] > unknown.mean[0] + 3.0


def test_a_hybrid_without_action_features_is_the_disjoint_form() -> None:
    bare = DIMS._replace(features=0)
    assert design_of(bare, basis="squares", features=True, interactions="all") == design_of(DIMS, basis="squares", features=False)


def test_new_actions_leave_the_old_ones_untouched_and_start_at_the_prior() -> None:
    small, large = (disjoint(DIMS._replace(actions=n), prior_scale=1.0, basis="squares") for n in (4, 9))
    batch = rows(60)
    one, other = (jax.jit(lambda model=model: model.update(model.init(), batch))() for model in (small, large))
    for a, b in zip(grown(one, blocks=9), other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("pairs", "said"), [(((3, 0),), "[3, 0]"), (((0, 2),), "below 2"), (((-1, 0),), "interactions: [-1, 0] is refused")]
)
def test_a_product_of_columns_that_are_not_there_is_refused(pairs: Any, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        linear_thompson_shared(DIMS, interactions=pairs)
    assert said in str(refused.value)


def test_too_many_products_are_refused_with_their_number() -> None:
    with pytest.raises(PolicyError, match=r"1600 of them .* list the pairs"):
        linear_thompson_hybrid(Dims(actions=2, context=40, features=40))


def test_win_frequencies_of_two_correlated_candidates_are_those_of_their_difference() -> None:
    """65,536 draws, 5 standard errors (false alarm 6e-7). Known bad: a probability that takes the two as independent is found."""
    two = Moments(mean=np.array([0.3, 0.0]), own_scale=np.array([0.2, 0.4]), loading=np.array([[1.0, 0.5], [0.8, -0.2]]))
    covariance = two.loading @ two.loading.T + np.diag(two.own_scale**2)
    draws = 1 << 16

    @jax.jit
    def frequencies(key: jax.Array) -> jax.Array:
        return win_frequencies(joint_scores(two, key, draws=draws, exploration=1.0, own=True).draws, np.ones(2, bool))

    exact, independent = (
        scipy.stats.norm.cdf(0.3 / np.sqrt(np.trace(covariance) - 2.0 * together)) for together in (covariance[0, 1], 0.0)
    )
    p = float(frequencies(jax.random.key(3))[0])
    assert abs(p - exact) < 5.0 * np.sqrt(exact * (1.0 - exact) / draws) < abs(p - independent)


def test_every_slot_uses_the_same_draws() -> None:
    draws = jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)))
    for mask in (np.array([1, 1, 1, 1, 1], bool), np.array([0, 1, 0, 1, 1], bool)):
        winners = np.where(mask[:, None], draws, -np.inf).argmax(axis=0)
        np.testing.assert_allclose(win_frequencies(draws, mask), np.bincount(winners, minlength=5) / 64.0, atol=1e-12)


def test_draws_do_not_depend_on_how_far_the_candidates_are_padded() -> None:
    key, drawn = jax.random.key(7), jax.jit(normals, static_argnames=("shape", "purpose"))
    few, many, other = (np.asarray(drawn(key, shape=(k, 512), purpose=purpose)) for k, purpose in ((3, 4), (8, 4), (8, 5)))
    np.testing.assert_array_equal(few, many[:3])
    # Mean, variance and correlation within 5 standard errors of 4,096 numbers (false alarm 6e-7 each).
    assert abs(many.mean()) < 5.0 / 64.0 and abs(many.var() - 1.0) < 5.0 * np.sqrt(2.0) / 64.0
    assert abs(np.corrcoef(many.ravel(), other.ravel())[0, 1]) < 5.0 / 64.0


@pytest.mark.parametrize(("beta", "wanted"), [(0.0, [1.0, 0.0, 0.0, 0.0]), (0.5, [0.0, 1.0, 0.0, 0.0]), (9.0, [0.0, 0.0, 0.5, 0.5])])
def test_ucb_takes_the_largest_index_and_shares_ties(beta: float, wanted: list[float]) -> None:
    scores = GaussianScores(mean=np.array([1.0, 0.9, 0.2, 0.2]), scale=np.array([0.0, 0.25, 1.0, 1.0]))
    np.testing.assert_array_equal(linear_ucb(DIMS, beta=beta).choose(scores, np.ones(4, bool)), wanted)


def test_exploration_is_the_width_of_the_draws() -> None:
    scores = GaussianScores(mean=np.array([1.0, 0.0]), scale=np.array([0.6, 0.8]))
    for exploration in (0.3, 2.0):
        p = jax.jit(linear_thompson(DIMS, exploration=exploration).choose)(scores, np.ones(2, bool))
        assert p[0] == pytest.approx(scipy.stats.norm.cdf(1.0 / exploration), abs=1e-6)


def test_a_square_whose_moments_have_lost_their_digits_is_dropped_and_the_column_kept() -> None:
    """A column a thousand deviations away from zero: its fourth powers hold nothing."""
    batch = rows(60)
    far = batch._replace(context=batch.context + np.array([1e3, 0.0, 0.0]))
    design = design_of(DIMS, basis="squares", features=False)
    v = np.asarray(design.raw(far.context, far.features[:, :0]))
    standard = jax.jit(lambda pooled: standard_of(design, pooled))(v.T @ v)
    assert standard.inverse_spread[0] > 0.0 and standard.pair_inverse_spread[0] == 0.0 and np.all(standard.pair_inverse_spread[1:] > 0.0)
