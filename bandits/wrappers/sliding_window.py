"""A window over event time, for policies whose states merge: what is older is not known."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from bandits.errors import PolicyError
from bandits.policy import Batch, Policy
from protos import config

__all__ = ["SlidingWindowSettings", "SlidingWindowState", "sliding_window"]


class SlidingWindowSettings(config.StrictModel):
    """Settings of `sliding_window`."""

    #: Event time that the window spans, seconds, > 0.
    window_s: float = pydantic.Field(gt=0.0)
    #: Parts that the window moves on by, 2..64: the state is that many times larger.
    parts: int = pydantic.Field(default=8, ge=2, le=64)


class SlidingWindowState(NamedTuple):
    """`parts`: states by part of event time, every leaf [P, ...]; part number n lies in place n mod P. `newest` i64[]: the newest part."""

    parts: Any
    newest: jax.Array


def sliding_window(policy: Policy, *, window_s: float, parts: int = 8) -> Policy:
    """The policy on the rows of the newest part of event time and the `parts` - 1 before it; a part lasts window_s / parts seconds.

    So it knows the rows of the last window_s (1 - 1/parts) to window_s seconds (Garivier & Moulines 2011, sliding-window UCB; here in
    event time). Updates stay exact: which rows stand in the window depends on the newest row alone, not on the order of arrival.

    Raises PolicyError unless the policy's states merge.
    """
    if not window_s > 0.0 or parts < 2:
        raise PolicyError(f"sliding_window: window_s={window_s!r}, parts={parts!r} is refused; give seconds > 0 and at least 2 parts")
    inner = policy.merge
    if inner is None:
        raise PolicyError("sliding_window: this policy's states do not merge; choose one whose catalog entry says `exact_update`")
    places = jnp.arange(parts, dtype=jnp.int64)

    def numbers(newest: jax.Array) -> jax.Array:
        """Number of the part that lies in each place: the largest one up to `newest` that is the place, modulo parts."""
        return newest - (newest - places) % parts

    def rolled(state: SlidingWindowState, newest: jax.Array) -> Any:
        """The parts once `newest` is the newest: those that the window has left are at the prior."""
        stays = numbers(state.newest) == numbers(newest)
        at_prior = policy.init()
        return jax.tree.map(lambda leaf, prior: jnp.where(_along(stays, leaf), leaf, prior[None]), state.parts, at_prior)

    def init() -> SlidingWindowState:
        every = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (parts, *leaf.shape)), policy.init())
        return SlidingWindowState(parts=every, newest=jnp.zeros((), jnp.int64))

    def update(state: SlidingWindowState, batch: Batch) -> SlidingWindowState:
        part = jnp.floor(batch.time_s / (window_s / parts)).astype(jnp.int64)
        newest = jnp.maximum(state.newest, jnp.max(jnp.where(batch.weight != 0.0, part, 0), initial=0))

        def learn(given: tuple[jax.Array, Any]) -> Any:
            number, before = given
            rows = batch._replace(weight=jnp.where(part == number, batch.weight, 0.0))
            return jax.lax.cond(jnp.any(rows.weight != 0.0), lambda old: policy.update(old, rows), lambda old: old, before)

        return SlidingWindowState(parts=jax.lax.map(learn, (numbers(newest), rolled(state, newest))), newest=newest)

    def prepare(state: SlidingWindowState) -> Any:
        every = [jax.tree.map(lambda leaf, place=place: leaf[place], state.parts) for place in range(parts)]
        return policy.prepare(functools.reduce(inner, every))

    def merge(left: SlidingWindowState, right: SlidingWindowState) -> SlidingWindowState:
        newest = jnp.maximum(left.newest, right.newest)
        return SlidingWindowState(parts=jax.vmap(inner)(rolled(left, newest), rolled(right, newest)), newest=newest)

    return policy._replace(init=init, update=update, prepare=prepare, merge=merge)


def _along(flags: jax.Array, leaf: jax.Array) -> jax.Array:
    """Flags [P] in a shape that goes with a leaf [P, ...]."""
    return flags.reshape(flags.shape[0], *(1,) * (leaf.ndim - 1))
