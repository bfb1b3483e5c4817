"""Wrappers: what each does against slow numpy, that updates stay exact inside them, and what they refuse."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits import contract
from bandits.catalog import CATALOG, Entry, PolicySpec, build, exact_update, plain
from bandits.errors import PolicyError
from bandits.features import Feature, Schema
from bandits.policies.linear_thompson import linear_thompson
from bandits.policy import Batch, Candidates, Dims, Policy
from bandits.wrappers.declared import WRAPPERS, Around, wrapped
from bandits.wrappers.discount import discount
from bandits.wrappers.mask import MaskSettings, mask, resolved
from bandits.wrappers.mixture import blend, mixture
from bandits.wrappers.position_bias import position_bias
from bandits.wrappers.sliding_window import sliding_window
from bandits.wrappers.warm_start import doubly_robust_rows, even_weights, started_from, warm_start
from protos.config import StrictModel
from protos.errors import ConfigError

DAY = 86_400.0
DIMS = Dims(actions=3, context=2, features=0)
DECLARED: dict[str, dict[str, Any]] = {
    "blend": {"baseline": "uniform", "share": 0.3},
    "discount": {"half_life_s": DAY},
    "even_start": {"rows": 40.0},
    "mask": {"never": [2], "when": [{"feature": 0, "above": 0.5, "never": [1]}]},
    "mixture": {"policies": [{"policy": "uniform", "share": 0.2}, {"policy": "softmax", "share": 0.1}]},
    "position_bias": {"examination": [1.0, 0.5, 0.25]},
    "sliding_window": {"window_s": 40 * DAY, "parts": 4},
    "warm_start": {"until_s": 1.7e9 + 400_000.0, "cap": 5.0},
}


class Settings(StrictModel):
    """None."""


def entry(wrappers: list[dict[str, Any]], name: str = "linear_thompson") -> Entry:
    """A wrapped policy as a catalog entry, so that the contract's checks run on it."""
    spec = PolicySpec.of(name, {}, floor=0.0, dims=contract.DIMS, wrappers=wrappers)

    def factory(dims: Dims) -> Policy:
        around = Around(dims, lambda other, settings: plain(CATALOG[other], dims, settings))
        return wrapped(plain(CATALOG[name], dims), spec.wrappers, around)

    return Entry(factory=factory, settings=Settings, exact_update=exact_update(spec), propensity="as inside")


ENTRIES = {name: entry([{"name": name, **settings}]) for name, settings in DECLARED.items()}
ENTRIES["all that nest"] = entry(
    [{"name": name, **DECLARED[name]} for name in ("warm_start", "position_bias", "discount", "mask", "blend")]
)
LEARNING = [
    contract.check_strict_promotion,
    contract.check_padding,
    contract.check_batches_commute,
    contract.check_merge,
    contract.check_a_revised_reward,
]
DRAWING = [contract.check_fixed_trees, contract.check_choose_is_a_distribution, contract.check_cold_action, contract.check_parameter_names]
CASES = [
    (name, check)
    for name in ENTRIES
    for check in (*LEARNING, *(DRAWING if name in ("mixture", "all that nest") else ()))
    if name != "mask" or check is contract.check_strict_promotion
]


def test_every_wrapper_is_under_test() -> None:
    assert set(DECLARED) == set(WRAPPERS)


@pytest.mark.parametrize(("name", "check"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_a_wrapped_policy_keeps_the_contract(name: str, check: contract.Check) -> None:
    check(ENTRIES[name])


def rows(n: int = 60, *, seed: int = 0, days: float = 10.0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch.of(
        rng.normal(size=(n, 2)),
        rng.integers(0, 3, n),
        rng.normal(size=n),
        time_s=1.7e9 + rng.uniform(0.0, days * DAY, n),
        slot=rng.integers(0, 4, n).astype(np.int32),
        propensity=rng.uniform(0.05, 1.0, n),
    )


def learned(policy: Policy, batch: Batch) -> Any:
    """What serving gets of a policy that has learned the rows."""
    return jax.jit(lambda given: policy.prepare(policy.update(policy.init(), given)))(batch)


def agree(one: Any, other: Any, *, rtol: float = 1e-10) -> None:
    for a, b in zip(map(np.asarray, jax.tree.leaves(one)), map(np.asarray, jax.tree.leaves(other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max(initial=0.0))


PLAIN = linear_thompson(DIMS)
# Each wrapper of rows against the plain policy on rows that are weighed, one by one, by its definition.
BY_HAND: dict[str, tuple[Policy, Callable[[Batch], Batch]]] = {
    "discount": (
        discount(PLAIN, half_life_s=3 * DAY),
        lambda b: b._replace(weight=b.weight * 0.5 ** ((b.time_s.max() - b.time_s) / (3 * DAY))),
    ),
    "sliding_window": (
        sliding_window(PLAIN, window_s=4 * DAY, parts=4),
        lambda b: b._replace(weight=np.where(b.time_s // DAY > b.time_s.max() // DAY - 4, b.weight, 0.0)),
    ),
    "position_bias": (
        position_bias(PLAIN, examination=[1.0, 0.5]),
        lambda b: b._replace(reward=np.where(b.slot > 0, 2.0 * b.reward, b.reward), weight=np.where(b.slot > 0, 0.5 * b.weight, b.weight)),
    ),
    "warm_start": (
        warm_start(PLAIN, actions=3, until_s=1.7e9 + 5 * DAY, cap=2.0),
        lambda b: b._replace(weight=np.where(b.time_s < 1.7e9 + 5 * DAY, b.weight * np.minimum(1.0 / (3.0 * b.propensity), 2.0), b.weight)),
    ),
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_rows_count_as_the_definition_says(name: str) -> None:
    policy, by_hand = BY_HAND[name]
    batch = rows()
    assert not np.array_equal(by_hand(batch).weight, batch.weight)
    agree(learned(policy, batch), learned(PLAIN, by_hand(batch)))


@pytest.mark.parametrize("name", ["discount", "sliding_window"])
def test_what_is_forgotten_follows_from_event_time_and_not_from_the_order_of_arrival(name: str) -> None:
    """Ten batches, each of one day, in any order and any tree of merges: the same state as at once."""
    policy = BY_HAND[name][0]
    batch, rng = rows(90), np.random.default_rng(1)
    at_once = jax.jit(policy.update)(policy.init(), batch)
    parts = np.array_split(rng.permutation(90), 3)
    states = [jax.jit(policy.update)(policy.init(), Batch(*(column[part] for column in batch))) for part in parts]
    assert policy.merge is not None
    one, other, last = states
    for merged in (policy.merge(policy.merge(one, other), last), policy.merge(last, policy.merge(other, one))):
        agree(merged, at_once, rtol=1e-12)


def test_a_window_forgets_all_of_what_it_has_left() -> None:
    policy = BY_HAND["sliding_window"][0]
    late = rows(1)._replace(time_s=np.array([1.7e9 + 100 * DAY]))
    agree(learned(policy, Batch(*(np.concatenate(pair) for pair in zip(rows(), late, strict=True)))), learned(PLAIN, late), rtol=0.0)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_a_row_that_is_taken_back_was_never_there(name: str) -> None:
    policy = BY_HAND[name][0]
    batch = rows()
    mistaken = Batch(*(column[:20] for column in rows(seed=5, days=9.0)))
    update = jax.jit(policy.update)
    state = update(update(policy.init(), batch), mistaken)
    agree(update(state, mistaken._replace(weight=-mistaken.weight)), update(policy.init(), batch), rtol=1e-12)


def scores_of(policy: Policy, params: Any, actions: list[int]) -> Any:
    given = (jnp.array([0.3, -0.2]), Candidates.of(jnp.asarray(actions, jnp.int32)), jax.random.key(0))
    return jax.jit(policy.score)(params, *given)


def test_a_mixture_has_the_weighted_probabilities_of_its_members() -> None:
    members = (PLAIN, plain(CATALOG["uniform"], DIMS), plain(CATALOG["softmax"], DIMS))
    whole, batch, mask = mixture(members, shares=(0.5, 0.3, 0.2)), rows(), jnp.array([True, True, False, True])
    p = [jax.jit(member.choose)(scores_of(member, learned(member, batch), [0, 1, 2, 3]), mask) for member in members]
    mixed = jax.jit(whole.choose)(scores_of(whole, learned(whole, batch), [0, 1, 2, 3]), mask)
    np.testing.assert_allclose(mixed, 0.5 * p[0] + 0.3 * p[1] + 0.2 * p[2], rtol=0, atol=1e-14)


def test_a_blend_is_never_below_its_share_of_the_baseline() -> None:
    baseline, batch, mask = plain(CATALOG["uniform"], DIMS), rows(), jnp.ones(3, bool)
    whole = blend(PLAIN, baseline, share=0.6)
    assert np.all(jax.jit(whole.choose)(scores_of(whole, learned(whole, batch), [0, 1, 2]), mask) >= 0.6 / 3 - 1e-15)


def test_a_mixture_merges_only_if_all_members_do() -> None:
    assert mixture((PLAIN, PLAIN._replace(merge=None)), shares=(0.5, 0.5)).merge is None
    assert mixture((PLAIN, PLAIN), shares=(0.5, 0.5)).merge is not None


def test_even_weights_have_mean_one_under_the_logger() -> None:
    """Exactly, over all actions of a known logger: sum_a p(a) / (A p(a)) = 1."""
    p = np.array([0.7, 0.2, 0.1])
    batch = rows(3)._replace(propensity=p)
    assert float(p @ np.asarray(even_weights(batch, actions=3, cap=100.0))) == pytest.approx(1.0, abs=1e-15)
    assert np.asarray(even_weights(batch, actions=3, cap=1.5)).max() == 1.5


def logged(n: int, *, seed: int) -> tuple[Batch, np.ndarray]:
    """Rows of a logger that sees what the model does not: it plays action 0 where a hidden feature is high. With the true means."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(n) < 0.5
    p = np.where(hidden[:, None], [0.8, 0.1, 0.1], [0.1, 0.45, 0.45])
    action = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    value = np.stack([hidden * 1.0, np.full(n, 0.6), np.full(n, 0.2)], axis=1)
    reward = value[np.arange(n), action] + 0.1 * rng.normal(size=n)
    return Batch.of(np.zeros((n, 2)), action, reward, propensity=p[np.arange(n), action]), np.array([0.5, 0.6, 0.2])


def test_weights_undo_what_the_logger_preferred() -> None:
    """Action 0 earns 0.5 of evenly drawn decisions, 0.89 of the logger's: plain rows prefer it, weighed ones and doubly robust ones don't.

    4,000 rows, seed fixed; the means are within 0.05 (6 standard errors: false alarm 1e-8).
    """
    batch, true = logged(4000, seed=2)
    biased = np.asarray(scores_of(PLAIN, learned(PLAIN, batch), [0, 1, 2]).mean)
    assert biased[0] > 0.85 > biased[1]
    weighed = warm_start(PLAIN, actions=3, until_s=1.0)
    robust = started_from(PLAIN, doubly_robust_rows(PLAIN, batch, actions=3))
    for mean in (
        scores_of(weighed, learned(weighed, batch), [0, 1, 2]).mean,
        scores_of(robust, jax.jit(robust.prepare)(robust.init()), [0, 1, 2]).mean,
    ):
        np.testing.assert_allclose(np.asarray(mean), true, rtol=0, atol=0.05)


def test_a_mask_takes_out_actions_by_context_and_an_unknown_context_counts_as_masked() -> None:
    policy = mask(PLAIN, never=[2], when=[{"feature": 0, "above": 0.5, "never": [1]}, {"feature": 1, "below": 0.0, "never": [0, 3]}])
    every = Candidates.of(jnp.arange(4, dtype=jnp.int32))
    for context, left in (([0.0, 1.0], [0, 1, 3]), ([0.6, 1.0], [0, 3]), ([0.5, -1.0], [1]), ([np.nan, 1.0], [0, 3])):
        assert policy.eligible is not None
        assert np.flatnonzero(policy.eligible(jnp.asarray(context), every, jnp.ones(4, bool))).tolist() == left


def test_two_masks_both_hold() -> None:
    policy = mask(mask(PLAIN, never=[2]), never=[0])
    assert policy.eligible is not None
    left = policy.eligible(jnp.zeros(2), Candidates.of(jnp.arange(3, dtype=jnp.int32)), jnp.ones(3, bool))
    assert left.tolist() == [False, True, False]


SCHEMA = Schema(
    context=(
        Feature(name="age", default=0.0),
        Feature(name="country", type="category", vocabulary=("at", "de")),
        Feature(name="member", type="bool", default=False),
    ),
    action=(),
    actions=("wine", "water"),
)


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        ({"feature": "age", "below": 18.0}, {"feature": 0, "below": 18.0}),
        ({"feature": "country", "equals": "de"}, {"feature": 2, "above": 0.5}),
        ({"feature": "member", "equals": False}, {"feature": 4, "below": 0.5}),
        ({"feature": "member", "equals": True}, {"feature": 4, "above": 0.5}),
    ],
)
def test_names_become_places(condition: dict[str, Any], place: dict[str, Any]) -> None:
    settings = MaskSettings.model_validate({"never": ["water"], "when": [{**condition, "never": ["wine"]}]})
    found = resolved(settings, SCHEMA).model_dump(exclude_none=True)
    assert found == {"never": (1,), "when": ({**place, "never": (0,)},)}
    again = resolved(MaskSettings.model_validate(found), SCHEMA).model_dump(exclude_none=True)
    assert again == found


@pytest.mark.parametrize(
    ("wrappers", "said"),
    [
        ([{"name": "discont", "half_life_s": 1.0}], "did you mean `discount`"),
        ([{"half_life_s": 1.0}], "policy.wrappers.0.name"),
        ([{"name": "discount"}], "policy.wrappers.0.half_life_s: missing"),
        ([{"name": "discount", "half_live_s": 1.0, "half_life_s": 1.0}], "did you mean `half_life_s`"),
        ([{"name": "discount", "half_life_s": 0.0}], "half_life_s: 0.0 is refused"),
        ([{"name": "position_bias", "examination": [1.0, 0.0]}], "examination"),
        ([{"name": "blend", "baseline": "uniformm"}], "did you mean `uniform`"),
        ([{"name": "mixture", "policies": [{"policy": "uniform", "share": 0.6}, {"policy": "softmax", "share": 0.4}]}], "leave a rest"),
        ([{"name": "mask", "when": [{"feature": "age", "never": ["wine"]}]}], "give `equals`"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_by_name(wrappers: list[dict[str, Any]], said: str) -> None:
    with pytest.raises((PolicyError, ConfigError), match=said):
        PolicySpec.of("uniform", {}, floor=0.1, dims=DIMS, wrappers=wrappers)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"never": ["whine"]}, "did you mean `wine`"),
        ({"when": [{"feature": "aged", "below": 1.0, "never": []}]}, "did you mean `age`"),
        ({"when": [{"feature": "country", "equals": "dee", "never": []}]}, "did you mean `de`"),
        ({"when": [{"feature": "member", "above": 0.2, "never": []}]}, "`equals` is for words and flags"),
    ],
)
def test_a_mask_of_what_the_task_lacks_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        resolved(MaskSettings.model_validate(settings), SCHEMA)


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: discount(PLAIN._replace(merge=None), half_life_s=1.0),
        lambda: discount(discount(PLAIN, half_life_s=1.0), half_life_s=1.0),
        lambda: discount(PLAIN, half_life_s=float("nan")),
        lambda: sliding_window(PLAIN._replace(merge=None), window_s=1.0),
        lambda: sliding_window(PLAIN, window_s=1.0, parts=1),
        lambda: mixture((PLAIN, PLAIN), shares=(0.5, 0.6)),
        lambda: mixture((PLAIN, PLAIN), shares=(1.0, 0.0)),
        lambda: blend(PLAIN, PLAIN, share=1.0),
        lambda: mask(PLAIN, never=["wine"]),
        lambda: position_bias(PLAIN, examination=[]),
        lambda: doubly_robust_rows(PLAIN, rows()._replace(features=np.zeros((60, 1))), actions=3),
    ],
)
def test_a_wrapper_refuses_what_it_cannot_wrap(build_it: Callable[[], Policy]) -> None:
    with pytest.raises(PolicyError, match=r": .*; |;"):
        build_it()


def test_the_order_of_wrappers_is_kept_and_the_floor_lies_outside() -> None:
    """A discount outside a window is refused (its state is no sum); a window of discounted parts is declared the other way round."""
    inside = [{"name": "discount", "half_life_s": DAY}, {"name": "mixture", "policies": [{"policy": "uniform", "share": 0.5}]}]
    spec = PolicySpec.of("linear_thompson", {}, floor=0.25, dims=DIMS, wrappers=inside)
    assert [wrapper["name"] for wrapper in json.loads(spec.wrappers)] == ["discount", "mixture"]
    assert spec.policies == ("linear_thompson", "uniform") and exact_update(spec)
    policy = build(spec)
    found = jax.jit(policy.choose)(scores_of(policy, learned(policy, rows()), [0, 1, 2]), jnp.ones(3, bool))
    assert np.all(found >= 0.25 / 3 + 0.75 * 0.5 / 3 - 1e-15)
    with pytest.raises(PolicyError, match="no plain sum"):
        window = {"name": "sliding_window", "window_s": DAY}
        build(PolicySpec.of("linear_thompson", {}, floor=0.25, dims=DIMS, wrappers=[window, inside[0]]))


@pytest.mark.parametrize("name", ["square_cb", "reg_cb", "epsilon_greedy", "uniform"])
def test_whatever_is_a_sum_of_rows_can_be_discounted(name: str) -> None:
    policy = plain(CATALOG[name], DIMS)
    assert jax.tree.structure(discount(policy, half_life_s=DAY).init().rows) == jax.tree.structure(policy.init())


def test_settings_of_other_policies_are_written_out() -> None:
    spec = PolicySpec.of("uniform", {}, floor=0.1, dims=DIMS, wrappers=[{"name": "blend", "baseline": "linear_thompson"}])
    (wrapper,) = json.loads(spec.wrappers)
    assert wrapper["settings"] == json.loads(PolicySpec.of("linear_thompson", {}, floor=0.1, dims=DIMS).settings)
