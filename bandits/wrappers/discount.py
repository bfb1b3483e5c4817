"""Exponential forgetting by event time, for policies whose state is a sum over rows."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Policy, added
from protos import config

__all__ = ["DiscountSettings", "DiscountState", "discount"]


class DiscountSettings(config.StrictModel):
    """Settings of `discount`."""

    #: Event time after which a row counts half, seconds, > 0.
    half_life_s: float = pydantic.Field(gt=0.0)


class DiscountState(NamedTuple):
    """`rows`: the policy's sums, weighed as of `as_of_s` f64[], the event time of the newest row, seconds since the epoch."""

    rows: Any
    as_of_s: jax.Array


def discount(policy: Policy, *, half_life_s: float) -> Policy:
    """The policy with rows weighed by their age: a row of event time t counts exp(-(t_ref - t) / tau), tau = half_life_s / ln 2.

    t_ref, the event time of the newest row seen, is a leaf of the state; a merge rescales to the later one. So updates stay exact:
    batches commute, a late row gets the weight of its own time, and a row is taken back with the weight it has by then (Kocsis &
    Szepesvari 2006, discounted UCB; here in event time). What stands still forgets nothing: time passes with the rows, not the clock.

    Raises PolicyError unless the policy's state is a plain sum over rows: `merge` adds, and `init` is zero.
    """
    if not half_life_s > 0.0:
        raise PolicyError(f"discount.half_life_s: {half_life_s!r} is refused; give seconds > 0, say 604800 for a week")
    if not _is_a_sum(policy):
        raise PolicyError("discount: this policy's state is no plain sum over rows; discount another one, or use `sliding_window`")
    tau = half_life_s / math.log(2.0)

    def as_of(state: DiscountState, time_s: jax.Array) -> Any:
        kept = jnp.exp((state.as_of_s - time_s) / tau)
        return jax.tree.map(lambda leaf: leaf * kept, state.rows)

    def init() -> DiscountState:
        return DiscountState(rows=policy.init(), as_of_s=jnp.zeros((), jnp.float64))

    def update(state: DiscountState, batch: Batch) -> DiscountState:
        times = jnp.where(batch.weight != 0.0, batch.time_s, -jnp.inf)
        newest = jnp.maximum(state.as_of_s, jnp.max(times, initial=-jnp.inf))
        # Rows of weight 0 may have any time: the minimum keeps their factor finite.
        weight = batch.weight * jnp.exp(jnp.minimum(batch.time_s - newest, 0.0) / tau)
        return DiscountState(rows=policy.update(as_of(state, newest), batch._replace(weight=weight)), as_of_s=newest)

    def prepare(state: DiscountState) -> Any:
        return policy.prepare(state.rows)

    def merge(left: DiscountState, right: DiscountState) -> DiscountState:
        newest = jnp.maximum(left.as_of_s, right.as_of_s)
        return DiscountState(rows=added(as_of(left, newest), as_of(right, newest)), as_of_s=newest)

    return policy._replace(init=init, update=update, prepare=prepare, merge=merge)


def _is_a_sum(policy: Policy) -> bool:
    """Is the state floating point numbers, zero before any row, and do states merge by addition? Tried on states of ones and of twos."""
    merge = policy.merge
    if merge is None or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(jax.eval_shape(policy.init))):
        return False

    def adds() -> jax.Array:
        zero = policy.init()
        ones, twos = (jax.tree.map(lambda leaf, number=number: jnp.full_like(leaf, number), zero) for number in (1.0, 2.0))
        pairs = (*zip(jax.tree.leaves(merge(ones, twos)), jax.tree.leaves(added(ones, twos)), strict=True),)
        of_zero = [jnp.all(leaf == 0.0) for leaf in jax.tree.leaves(zero)]
        return jnp.all(jnp.stack([*of_zero, *(jnp.all(one == other) for one, other in pairs)]))

    return bool(jax.jit(adds)())
