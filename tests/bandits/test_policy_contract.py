"""Every policy of the catalog keeps the contract of bandits.policy. Adding a name to the catalog is what puts it under these tests."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from bandits import contract
from bandits.catalog import CATALOG, Entry
from bandits.policies.uniform import uniform
from bandits.policy import Batch, Dims, Policy
from protos.config import StrictModel

CASES = [(name, check) for name in sorted(CATALOG) for check in contract.checks(CATALOG[name])]


@pytest.mark.parametrize(("name", "check"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_the_policy_keeps_its_contract(name: str, check: contract.Check) -> None:
    check(CATALOG[name])


class NoSettings(StrictModel):
    """None."""


class Signs(NamedTuple):
    mean: jax.Array
    scale: jax.Array


def broken(**functions: Any) -> Entry:
    """An entry that claims exactness and whose policy is uniform but for the functions given."""

    def factory(dims: Dims) -> Policy:
        return uniform(dims)._replace(**functions)

    return Entry(factory=factory, settings=NoSettings, exact_update=True, propensity="wrong")


def forgets(state: jax.Array, batch: Batch) -> jax.Array:
    """The last row alone counts: nothing commutes, nothing is taken back, padding speaks."""
    return 0.5 * state + jnp.sum(batch.weight * batch.reward) + jnp.float64(batch.reward.shape[0])


def drops_the_prior(state: jax.Array, batch: Batch) -> Any:
    return (state, state) if batch.reward.shape[0] else state


def a_negative_scale(params: Any, context: Any, candidates: Any, key: Any) -> Signs:
    return Signs(mean=candidates.score, scale=-jnp.ones_like(candidates.score))


def the_prior_differs(params: Any, context: Any, candidates: Any, key: Any) -> Signs:
    return Signs(mean=candidates.action.astype(jnp.float64), scale=candidates.score)


@jax.custom_batching.custom_vmap
def by_place(values: jax.Array) -> jax.Array:
    return values


@by_place.def_vmap
def _by_place(axis_size: int, in_batched: Any, values: jax.Array) -> Any:
    return values + jnp.arange(axis_size, dtype=values.dtype)[:, None], True


def another_in_a_batch(params: Any, context: Any, candidates: Any, key: Any) -> Signs:
    return Signs(mean=by_place(candidates.score), scale=jnp.zeros_like(candidates.score))


def counts_the_places(state: jax.Array, batch: Batch) -> jax.Array:
    return state + jnp.sum(batch.weight * batch.reward * jnp.arange(batch.reward.shape[0], dtype=jnp.float64))


def ignores_the_mask(scores: Any, mask: jax.Array) -> jax.Array:
    return jnp.full(mask.shape, 1.0 / mask.shape[0], jnp.float64)


def misses_the_sum(scores: Any, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, 0.1, 0.0)


def of_single_precision(scores: Any, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, jnp.float32(1.0), jnp.float32(0.0)) / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), jnp.float32(1.0))


def promotes(scores: Any, mask: jax.Array) -> jax.Array:
    return mask * jnp.float64(1.0) / (jnp.sum(mask) * jnp.float32(1.0))


KNOWN_BAD: list[tuple[contract.Check, dict[str, Any]]] = [
    (contract.check_parameter_names, {"choose": lambda s, m: s}),
    (contract.check_strict_promotion, {"choose": promotes}),
    (contract.check_strict_promotion, {"choose": of_single_precision}),
    (contract.check_fixed_trees, {"update": drops_the_prior}),
    (contract.check_scores, {"score": a_negative_scale}),
    (contract.check_choose_is_a_distribution, {"choose": ignores_the_mask}),
    (contract.check_choose_is_a_distribution, {"choose": misses_the_sum}),
    (contract.check_floor_holds, {"choose": lambda scores, mask: -jnp.ones(mask.shape, jnp.float64)}),
    (contract.check_empty_update, {"update": forgets}),
    (contract.check_padding, {"update": forgets}),
    (contract.check_vmap, {"score": another_in_a_batch}),
    (contract.check_cold_action, {"score": the_prior_differs}),
    (contract.check_batches_commute, {"update": forgets}),
    (contract.check_order_of_rows, {"update": counts_the_places}),
    (contract.check_merge, {"update": forgets}),
    (contract.check_merge, {"merge": None}),
    (contract.check_merge, {"merge": lambda left, right: left}),
    (contract.check_a_row_is_taken_back, {"update": forgets}),
    (contract.check_a_revised_reward, {"update": forgets}),
]


@pytest.mark.parametrize(("check", "functions"), KNOWN_BAD, ids=lambda value: value.__name__ if callable(value) else "")
def test_the_checks_find_a_policy_that_breaks_them(check: contract.Check, functions: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"\w+ \w+ \w+"):
        check(broken(**functions))


def test_a_policy_that_compiles_anew_at_every_call_is_found() -> None:
    calls = iter(range(10**6))

    def update(state: jax.Array, batch: Batch) -> jax.Array:
        return jax.jit(lambda: state + jnp.sum(batch.weight) + 0.0 * next(calls))()

    entry = broken(update=update)
    compiled = contract._compiled(entry, 0.05)._replace(update=update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "_compiled", lambda entry, epsilon: compiled)
        with pytest.raises(AssertionError, match="compiles again"):
            contract.check_no_second_compilation(entry)


def test_every_check_of_the_contract_runs_somewhere() -> None:
    named = {value for name, value in vars(contract).items() if name.startswith("check_") and value is not contract.check_policy}
    assert named == {*contract.EVERY_POLICY, *contract.EXACT_POLICIES}
