"""Constrained Thompson sampling: its rule against a slow reference, what a bound means, and what is learned of several outcomes."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits import contract
from bandits.catalog import CATALOG, Entry, PolicySpec, build, exact_update, outcomes, parsed, plain
from bandits.errors import PolicyError
from bandits.policies.constrained import ConstrainedScores, ConstrainedSettings
from bandits.policies.constraints import Constraint, slack
from bandits.policies.reward_table import RewardTable, levels_of
from bandits.policy import Batch, Candidates, Dims, Policy
from protos.config import StrictModel
from protos.errors import ConfigError

DIMS = Dims(actions=4, context=2, features=0)
EVERY = Candidates.of(jnp.arange(4, dtype=jnp.int32))
KEY = jax.random.key(3)
SAFE = {"outcome": "safe", "alpha": 0.05}


def policy_of(**settings: Any) -> Policy:
    return plain(CATALOG["constrained_thompson"], DIMS, {"baseline": {"action": 0}, "constraints": [SAFE], "draws": 64, **settings})


def rows(n: int = 400, *, seed: int = 0, outcomes: int = 1) -> Batch:
    """Action a earns a and is safe with 1 - a / 5; noise 0.1."""
    rng = np.random.default_rng(seed)
    context, action = rng.normal(size=(n, 2)), rng.integers(0, 4, n)
    named = 1.0 - action[:, None] / 5.0 + 0.1 * rng.normal(size=(n, outcomes))
    return Batch.of(context, action, action + 0.1 * rng.normal(size=n), outcomes=named)


def scores_of(reward: Any, outcome: Any, reference: Any, *, baseline: int | None = 0) -> ConstrainedScores:
    """Draws given by hand: `reward` [K, M], `outcome` [K, J, M], `reference` [J, M]."""
    reward = jnp.asarray(reward, jnp.float64)
    zeros = jnp.zeros(reward.shape[0], jnp.float64)
    is_baseline = zeros if baseline is None else zeros.at[baseline].set(1.0)
    return ConstrainedScores(
        zeros, zeros, reward, jnp.asarray(outcome, jnp.float64), jnp.asarray(reference, jnp.float64), is_baseline, None
    )


def by_hand(
    reward: np.ndarray, safe: np.ndarray, reference: np.ndarray, mask: np.ndarray, *, alpha: float, strict: float | None
) -> np.ndarray:
    """The rule as the paper states it, one draw after the other; the baseline is candidate 0."""
    k, draws = reward.shape
    p = np.zeros(k)
    passes = safe >= (1.0 - alpha) * reference[None, :]
    for m in range(draws):
        keeps = passes[:, m] if strict is None else passes.mean(axis=1) >= 1.0 - strict
        feasible = [a for a in range(k) if mask[a] and keeps[a]]
        p[max(feasible, key=lambda a: reward[a, m]) if feasible else 0] += 1.0 / draws
    return p


@pytest.mark.parametrize("strict", [None, 0.1])
def test_the_rule_is_the_papers_draw_by_draw(strict: float | None) -> None:
    rng = np.random.default_rng(1)
    reward, safe = rng.normal(size=(4, 64)), 1.0 + 0.1 * rng.normal(size=(4, 64))
    scores, choose = scores_of(reward, safe[:, None], safe[:1]), jax.jit(policy_of(strict=strict).choose)
    for mask in (np.ones(4, bool), np.array([True, False, True, True])):
        wanted = by_hand(reward, safe, safe[0], mask, alpha=0.05, strict=strict)
        np.testing.assert_allclose(choose(scores, mask), wanted, atol=1e-12)
        # Known bad: a reference that heeds no bound differs.
        assert not np.allclose(wanted, by_hand(reward, safe, safe[0], mask, alpha=1.0, strict=strict))


def test_the_baseline_plays_where_nothing_is_feasible_and_the_nearest_where_it_cannot() -> None:
    choose = policy_of(constraints=[{"outcome": "safe", "threshold": 0.9}]).choose
    scores = scores_of([[0.0], [1.0], [2.0], [3.0]], [[[0.5]], [[0.6]], [[0.8]], [[0.7]]], [[0.5]])
    np.testing.assert_array_equal(choose(scores, jnp.ones(4, bool)), [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(choose(scores, jnp.array([False, True, True, True])), [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(choose(scores, jnp.zeros(4, bool)), np.zeros(4))


@pytest.mark.parametrize(
    ("constraint", "value", "reference", "holds"),
    [
        ({"alpha": 0.1}, 0.9001, 1.0, True),
        ({"alpha": 0.1}, 0.8999, 1.0, False),
        ({"alpha": 0.1, "direction": "at_most"}, 1.0999, 1.0, True),
        ({"alpha": 0.1, "direction": "at_most"}, 1.1001, 1.0, False),
        ({"alpha": 0.0}, 1.0, 1.0, True),
        ({"alpha": 1.0}, 0.0, 1.0, True),
        # Of an outcome below zero the allowance is a share of its size: the baseline keeps its own bound.
        ({"alpha": 0.1}, -1.0, -1.0, True),
        ({"alpha": 0.1}, -1.1001, -1.0, False),
        ({"threshold": 2.0}, 2.0, 9.0, True),
        ({"threshold": 2.0}, 1.9999, 0.0, False),
        ({"threshold": 2.0, "direction": "at_most"}, 1.9999, 0.0, True),
        ({"threshold": 0.0, "direction": "at_most"}, 0.0001, 0.0, False),
    ],
)
def test_a_bound_means_what_it_says(constraint: dict[str, Any], value: float, reference: float, holds: bool) -> None:
    declared = Constraint(outcome="safe", **constraint)
    room = slack([declared], jnp.array([declared.alpha or 0.0]), values=jnp.full((1, 1, 1), value), reference=jnp.full((1, 1), reference))
    assert bool(room[0, 0, 0] >= 0.0) is holds


class NoSettings(StrictModel):
    """None."""


def entry(**settings: Any) -> Entry:
    """Settings as a catalog entry of two outcomes, whose batches carry the contract's numbers as outcomes."""

    def factory(dims: Dims) -> Policy:
        policy = plain(CATALOG["constrained_thompson"], dims, {"baseline": {"action": 1}, "draws": 32, **settings})

        def update(state: Any, batch: Batch) -> Any:
            both = jnp.stack([jnp.asarray(batch.context)[:, 0], 0.5 * jnp.asarray(batch.reward)], axis=1)
            return policy.update(state, batch._replace(outcomes=both))

        return policy._replace(update=update)

    exact = parsed("constrained_thompson", {"baseline": {"action": 1}, **settings})
    assert isinstance(exact, ConstrainedSettings)
    return Entry(factory=factory, settings=NoSettings, exact_update=exact.learns_exactly, propensity="as the policy's", keyed=True)


TWO = [{"outcome": "one", "alpha": 0.1}, {"outcome": "two", "threshold": 0.4, "direction": "at_most"}]
LOGISTIC = entry(constraints=[TWO[0], {**TWO[1], "model": "logistic"}], strict=0.1)
CHECKED = [
    (entry(constraints=TWO), contract.check_a_revised_reward),
    (entry(constraints=TWO), contract.check_merge),
    *(
        pytest.param(LOGISTIC, check, marks=pytest.mark.slow)
        for check in (contract.check_fixed_trees, contract.check_choose_is_a_distribution, contract.check_padding)
    ),
]


@pytest.mark.parametrize(("what", "check"), CHECKED, ids=lambda value: getattr(value, "__name__", ""))
def test_several_outcomes_keep_the_contract(what: Entry, check: contract.Check) -> None:
    check(what)


def test_the_draw_of_the_baseline_is_the_same_as_candidate_or_not() -> None:
    policy = policy_of()
    params = jax.jit(lambda batch: policy.prepare(policy.update(policy.init(), batch)))(rows())
    score = jax.jit(lambda actions: policy.score(params, jnp.array([0.3, -1.0]), Candidates.of(actions), KEY))
    listed = score(jnp.array([2, 0, 1], jnp.int32))
    np.testing.assert_array_equal(listed.reference, listed.outcome[1])
    absent = score(jnp.array([2, 3, 1], jnp.int32))
    # Not the candidates' draws, but of the same posterior: means of 64 draws, 5 standard errors, false alarm 6e-7.
    far = absent.reference.mean() - listed.reference.mean()
    assert not np.any(absent.is_baseline) and abs(far) < 5.0 * np.sqrt(2.0 / 64.0) * float(listed.reference.std())


LOOSE = [{**SAFE, "alpha": 1.0}]
# What is declared, and the action that is then best. A compilation each, so the others are slow tests.
DECLARED = [
    ({"constraints": [{**SAFE, "alpha": 0.25}]}, 1),
    pytest.param({"constraints": [SAFE]}, 0, marks=pytest.mark.slow),
    # The baseline as a policy, always action 2: what is safer than 95 % of it is allowed, and 2 earns most of those.
    pytest.param({"baseline": {"policy": "fixed", "settings": {"probabilities": [0.0, 0.0, 1.0, 0.0]}}}, 2, marks=pytest.mark.slow),
    # A table that pays only for what is safe turns the order round.
    pytest.param(
        {"constraints": LOOSE, "reward": {"axes": [{"outcome": "safe", "levels": [0.0, 0.9]}], "worth": [0.0, 1.0]}},
        0,
        marks=pytest.mark.slow,
    ),
    pytest.param({"constraints": [{**SAFE, "alpha": 0.25, "model": "logistic"}], "strict": 0.1}, 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("settings", "best"), DECLARED)
def test_what_is_unsafe_is_left_alone_once_it_is_known(settings: dict[str, Any], best: int) -> None:
    """Action 1 keeps 80 % of the baseline's safety, 2 keeps 60 %, 3 keeps 40 %, and each earns more than the one before."""
    policy = policy_of(**settings)

    def whole(batch: Batch) -> jax.Array:
        scores = policy.score(policy.prepare(policy.update(policy.init(), batch)), jnp.zeros(2, jnp.float64), EVERY, KEY)
        return policy.choose(scores, jnp.ones(4, bool))

    assert jax.jit(whole)(rows())[best] > 0.9


def test_no_other_policy_reads_the_outcomes() -> None:
    """Tracing is enough: an outcome that is touched fails. Known bad: the one policy that asks for them."""

    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("outcomes were read")

    def touches(name: str) -> bool:
        policy = plain(CATALOG[name], contract.DIMS, {"constraints": [SAFE]} if name == "constrained_thompson" else {})
        batch = jax.tree.map(jnp.asarray, contract._batch(4))
        try:
            jax.eval_shape(lambda batch: policy.update(policy.init(), batch._replace(outcomes=Untouchable())), batch)
        except (AssertionError, TypeError):
            return True
        return False

    assert [name for name in sorted(CATALOG) if touches(name)] == ["constrained_thompson"]


def test_a_spec_says_which_outcomes_it_asks_for_and_whether_it_is_exact() -> None:
    table = {"axes": [{"outcome": "quality", "levels": [0.0]}, {"outcome": "safe", "levels": [0.0]}], "worth": [[0.0]]}
    settings = {"baseline": {"action": 0}, "constraints": [SAFE], "reward": table}
    spec = PolicySpec.of("constrained_thompson", settings, floor=0.05, dims=DIMS)
    assert outcomes(spec) == ("safe", "quality") and exact_update(spec)
    logistic = PolicySpec.of("constrained_thompson", {**settings, "reward_model": "logistic"}, floor=0.05, dims=DIMS)
    assert not exact_update(logistic) and build(logistic).merge is None
    assert outcomes(PolicySpec.of("linear_thompson", {}, floor=0.05, dims=DIMS)) == ()
    by_policy = {**settings, "baseline": {"policy": "epsilon_greedy"}}
    held = PolicySpec.of("constrained_thompson", by_policy, floor=0.05, dims=DIMS)
    assert held.policies == ("constrained_thompson", "epsilon_greedy")
    assert json.loads(held.settings)["baseline"]["settings"] == json.loads(
        PolicySpec.of("epsilon_greedy", {}, floor=0.0, dims=DIMS).settings
    )


def test_members_that_ask_for_different_outcomes_are_refused() -> None:
    other = {"policy": "constrained_thompson", "share": 0.5, "settings": {"constraints": [{"outcome": "fast", "alpha": 0.1}]}}
    wrappers = [{"name": "mixture", "policies": [other]}]
    spec = PolicySpec.of("constrained_thompson", {"constraints": [SAFE]}, floor=0.05, dims=DIMS, wrappers=wrappers)
    with pytest.raises(PolicyError, match="same constraints"):
        outcomes(spec)


def test_a_table_is_read_by_the_levels_that_outcomes_reach() -> None:
    axes = [{"outcome": "q", "levels": [1.0, 2.0]}, {"outcome": "late", "levels": [0.0, 5.0], "better": "lower"}]
    table = RewardTable.model_validate({"axes": axes, "worth": [[1.0, 0.0], [3.0, 2.0]]})
    read = levels_of(table, jnp.array([[0.5, 0.0], [1.0, 9.0], [2.0, 4.999], [7.0, 5.0]]))
    assert np.asarray(table.worth)[np.asarray(read[0]), np.asarray(read[1])].tolist() == [1.0, 0.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("axis", "worth", "said"),
    [
        ({"levels": [0.0, 1.0]}, [1.0, 0.0], "falls as 'q' gets better"),
        ({"levels": [0.0, 1.0], "better": "lower"}, [0.0, 1.0], "falls as 'q' gets better"),
        ({"levels": [1.0, 0.0]}, [0.0, 1.0], "do not ascend"),
        ({"levels": [0.0, 1.0]}, [0.0], "has shape"),
        ({"levels": [0.0, 1.0]}, [0.0, float("nan")], "finite"),
        ({"levels": [0.0, 1.0]}, [0.0, [1.0]], "no table of numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(axis: dict[str, Any], worth: list[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed("constrained_thompson", {"reward": {"axes": [{"outcome": "q", **axis}], "worth": worth}})
