"""Slates: drawn slot by slot without replacement, and the propensity of any slate by the same walk.

    slot l:  p_l = choose(scores, mask_l);  n_l = quantise(p_l);  draw a_l ~ n_l / 2^31;  mask_{l+1} = mask_l without a_l

`sample_slate` draws a_l; `slate_numerators` takes it from a log. Both call the same functions in the same order, so the propensity
that evaluation recomputes is the one that serving drew from.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandits.keys import slot_draws
from bandits.policy import Policy
from bandits.quantise import DENOMINATOR, pick, quantise

__all__ = ["ABSENT", "Slate", "joint_propensities", "sample_slate", "slate_numerators"]

# Index of a slot that the slate does not have.
ABSENT = -1


class Slate(NamedTuple):
    """`action` i32[L]: indices into the candidates, ABSENT behind the slate's end; `numerator` u32[L]: out of 2^31, 0 there."""

    action: jax.Array
    numerator: jax.Array


def sample_slate(policy: Policy, scores: Any, mask: jax.Array, key: jax.Array, size: jax.Array, *, slots: int) -> Slate:
    """Draws a slate of `size` (i32, <= `slots`) from the decision's key, u32[2]; it ends early where no candidate is left."""
    draws = slot_draws(key, slots)

    def choice(slot: jax.Array, numerators: jax.Array) -> jax.Array:
        return jnp.where((slot < size) & jnp.any(numerators > 0), pick(numerators, draws[slot]), ABSENT)

    return _walk(policy, scores, mask, choice, slots)


def slate_numerators(policy: Policy, scores: Any, mask: jax.Array, slate: jax.Array) -> jax.Array:
    """Conditional propensities, out of 2^31, u32[L], of a given slate (i32[L], ABSENT where there is no slot) under the policy."""
    return _walk(policy, scores, mask, lambda slot, numerators: slate[slot], slate.shape[0]).numerator


def joint_propensities(numerators: Any, slates: Any) -> np.ndarray:
    """Product over the slots of each slate, f64[n], from numerators and slates [n, L]; an absent slot counts as 1, an impossible as 0."""
    return np.prod(np.where(np.asarray(slates) >= 0, np.asarray(numerators, np.float64) / DENOMINATOR, 1.0), axis=-1)


def _walk(policy: Policy, scores: Any, mask: jax.Array, choice: Callable[[jax.Array, jax.Array], jax.Array], slots: int) -> Slate:
    """One loop over the slots, not one copy of the program a slot: compiling takes as long for ten slots as for one."""

    def step(mask: jax.Array, slot: jax.Array) -> tuple[jax.Array, Slate]:
        numerators = quantise(policy.choose(scores, mask), mask)
        action = choice(slot, numerators).astype(jnp.int32)
        present = action >= 0
        chosen = jnp.where(present, action, 0)
        taken = jnp.where(present, numerators[chosen], 0).astype(jnp.uint32)
        left = mask & ((jnp.arange(mask.shape[0], dtype=jnp.int32) != chosen) | ~present)
        return left, Slate(action, taken)

    return jax.lax.scan(step, mask, jnp.arange(slots, dtype=jnp.int32))[1]
