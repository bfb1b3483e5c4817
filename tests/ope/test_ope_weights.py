"""Weights of other kinds: what they are when there is a simpler way to say it, and that values under them are right."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate

from ope import weights
from ope.embeddings import embedding_weights
from ope.errors import RowsError
from ope.estimators import FAMILIES, estimator
from ope.kernels import KERNELS, kernel_weights
from ope.likelihood import cressie_read, maximum_likelihood
from ope.pseudo_inverse import gram, product_weights, slate_weights
from ope.rows import Batch, single_actions
from ope.strata import stratum, weighted
from ope.tuning import Candidates, least_error, slope
from tests.ope.slow_reference import example

LEVEL = 0.05
RNG = np.random.default_rng(0)
WEIGHT = RNG.gamma(1.0, 2.0, 500)


@pytest.mark.parametrize(("tame", "off", "on"), [("clipped", math.inf, 3.0), ("switched", math.inf, 3.0), ("shrunk", math.inf, 3.0)])
def test_a_limit_of_infinity_leaves_the_weights_alone_and_any_other_lowers_them(tame: str, off: float, on: float) -> None:
    function = getattr(weights, tame)
    np.testing.assert_array_equal(function(WEIGHT, off), WEIGHT)
    assert (function(WEIGHT, on) <= WEIGHT).all() and function(WEIGHT, on).max() <= on


def test_the_sub_gaussian_weight_is_bounded_by_one_over_its_pull() -> None:
    np.testing.assert_array_equal(weights.sub_gaussian(WEIGHT, 0.0), WEIGHT)
    assert weights.sub_gaussian(WEIGHT * 1e9, 0.1).max() <= 10.0
    assert weights.sub_gaussian(np.ones(1), 0.3) == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_that_tames_nothing_is_the_plain_estimator(name: str) -> None:
    batch, off = example(seed=5, rows=200, slots=1, units=30), FAMILIES[name].candidates[-1]
    plain = estimator("dr" if "q_logged" in FAMILIES[name].needs else "ips")
    values = [entry.finish(entry.moments(batch), LEVEL) for entry in (estimator(f"{name}:{off:g}"), plain)]
    assert values[0].value == values[1].value and values[0].standard_error == values[1].standard_error


@pytest.mark.parametrize("number", ["-1", "nan", "many", "mes"])
def test_a_number_out_of_range_is_refused(number: str) -> None:
    with pytest.raises(RowsError, match=f"clipped_ips:{number}"):
        estimator(f"clipped_ips:{number}").moments(example(seed=0, rows=5, slots=1, units=None))


@pytest.mark.parametrize("method", ["slope", "mse"])
def test_the_choice_is_reported_and_is_one_of_the_candidates_whatever_the_cut(method: str) -> None:
    batch, entry = example(seed=6, rows=300, slots=1, units=50), estimator(f"switch_dr:{method}")
    halves = [Batch(*(None if x is None else x[part] for x in batch)) for part in (slice(0, 120), slice(120, 300))]
    whole, merged = (entry.finish(m, LEVEL) for m in (entry.moments(batch), entry.merge(*map(entry.moments, halves))))
    assert whole.choice == merged.choice and f"by {method}, of 1, 5, 10" in whole.choice
    assert whole.value == pytest.approx(merged.value, rel=1e-12)
    with pytest.raises(RowsError, match="a pair needs one number for both"):
        entry.terms(batch)


def test_slope_takes_the_narrowest_that_meets_the_wider_and_mse_weighs_bias_against_variance() -> None:
    biased = Candidates(np.array([5.0, 1.1, 1.0]), np.array([0.01, 0.1, 0.5]), 1000, 1000, 2.0, 4.0)
    assert slope(biased) == 1 and least_error(biased) == 1
    agreeing = biased._replace(value=np.array([1.05, 1.1, 1.0]))
    assert slope(agreeing) == 0


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_a_kernel_is_a_density(kernel: str) -> None:
    total, _ = integrate.quad(lambda u: float(KERNELS[kernel](np.array([u]))[0]), -9, 9, points=(-1, 1))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_kernel_weights_have_mean_one_and_refuse_what_is_no_density() -> None:
    # 100,000 draws; a standard error of the mean weight is 0.006, so a factor of 1.03 is found, and this fails by chance in 1e-4.
    logged = RNG.normal(size=100_000)
    density = np.exp(-(logged**2) / 2) / math.sqrt(2 * math.pi)
    weight = kernel_weights(logged=logged, target=np.zeros(100_000), density=density, kernel="triangular", bandwidth=0.5)
    assert weight.mean() == pytest.approx(1.0, abs=0.025)
    for change, message in (({"density": [0.0]}, "density of row 0 is 0"), ({"bandwidth": 0.0}, "bandwidth"), ({"kernel": "box"}, "'box'")):
        given = {"logged": [0.0], "target": [0.0], "density": [1.0], "kernel": "cosine", "bandwidth": 1.0, **change}
        with pytest.raises(RowsError, match=message):
            kernel_weights(**given)


def test_an_embedding_that_names_the_action_gives_the_plain_weight_and_one_that_says_nothing_gives_one() -> None:
    target, logged, action = RNG.dirichlet(np.ones(4), 50), RNG.dirichlet(np.ones(4), 50), RNG.integers(0, 4, 50)
    named = embedding_weights(embedding=action[:, None], chance=np.eye(4)[:, :, None], target=target, logged=logged)
    np.testing.assert_allclose(named, (target / logged)[np.arange(50), action])
    mute = embedding_weights(embedding=np.zeros((50, 1), int), chance=np.ones((4, 1, 1)), target=target, logged=logged)
    np.testing.assert_allclose(mute, 1.0)
    with pytest.raises(RowsError, match="embedding of row 0"):
        embedding_weights(embedding=np.array([[1]]), chance=np.array([[[1.0], [0.0]]]), target=[[1.0]], logged=[[1.0]])


def _plackett_luce(scores: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    slates = np.array(list(itertools.permutations(range(len(scores)), slots)))
    chance = [math.prod(scores[s[k]] / (scores.sum() - scores[list(s[:k])].sum()) for k in range(slots)) for s in slates]
    return slates, np.array(chance)


def _marginal(slates: np.ndarray, chance: np.ndarray, items: int) -> np.ndarray:
    return np.array([np.bincount(slates[:, slot], weights=chance, minlength=items) for slot in range(slates.shape[1])])


def test_the_gram_form_is_exact_for_rankings_without_replacement_and_rewards_that_add_up() -> None:
    slates, logged = _plackett_luce(np.array([1.0, 2.0, 3.0, 4.0]), 3)
    _, target = _plackett_luce(np.array([4.0, 1.0, 1.0, 2.0]), 3)
    effect = RNG.normal(size=(3, 4))
    reward = effect[np.arange(3), slates].sum(axis=1)
    weight = slate_weights(logged=slates, gram=gram(slates=slates, probability=logged, items=4), target=_marginal(slates, target, 4))
    assert (logged * weight * reward).sum() == pytest.approx((target * reward).sum(), rel=1e-9)
    # The product form is not, for such a logging policy: this is what the general form is for.
    marginal = (_marginal(slates, target, 4) / _marginal(slates, logged, 4))[np.arange(3), slates]
    assert abs((logged * product_weights(marginal) * reward).sum() - (target * reward).sum()) > 1e-3


def test_for_independent_slots_the_gram_form_is_the_product_form() -> None:
    logged, target = RNG.dirichlet(np.ones(3), 2), RNG.dirichlet(np.ones(3), 2)
    slates = np.array(list(itertools.product(range(3), repeat=2)))
    chance = logged[np.arange(2), slates].prod(axis=1)
    weight = slate_weights(logged=slates, gram=gram(slates=slates, probability=chance, items=3), target=target)
    np.testing.assert_allclose(weight, product_weights((target / logged)[np.arange(2), slates]), rtol=1e-8)
    with pytest.raises(RowsError, match="item 2 in slot 1"):
        slate_weights(logged=slates[:1], gram=gram(slates=slates[:1], probability=[1.0], items=3), target=[[1, 0, 0], [0, 0, 1.0]])


@pytest.mark.parametrize("name", ["ips", "dr"])
def test_equal_strata_are_weighed_alike_and_parts_merge(name: str) -> None:
    batch = example(seed=8, rows=200, slots=1, units=None)
    entry, part = estimator(name), stratum(batch, name=name)
    found, plain = weighted([part, part]), entry.finish(entry.moments(batch), LEVEL)
    assert found.value == pytest.approx(plain.value, rel=1e-12) and found.share.tolist() == [0.5, 0.5]
    assert found.standard_error == pytest.approx(plain.standard_error / math.sqrt(2), rel=0.01)


def test_a_noisy_stratum_counts_less() -> None:
    calm, noisy = (single_actions(reward=RNG.normal(size=100), weight=np.full(100, scale)) for scale in (1.0, 10.0))
    assert weighted([stratum(batch, name="ips") for batch in (calm, noisy)]).share[1] < 0.05
    with pytest.raises(RowsError, match="stratum 0: its rows have no spread"):
        weighted([stratum(single_actions(reward=np.ones(3), weight=np.ones(3)), name="ips")])


def test_empirical_likelihood_is_the_mean_for_weights_of_one_and_near_it_for_weights_near_one() -> None:
    reward = RNG.binomial(1, 0.3, 200).astype(float)
    for value in (maximum_likelihood, cressie_read):
        assert value(weight=np.ones(200), reward=reward) == pytest.approx(reward.mean(), rel=1e-9)
        near = value(weight=RNG.choice([0.5, 1.5], 200), reward=reward)
        assert 0 <= near <= 1 and near == pytest.approx(reward.mean(), abs=0.15)
