"""The exploration floor: no eligible candidate is ever improbable, so every policy can be evaluated from the log."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.errors import PolicyError
from bandits.policy import Policy

__all__ = ["floor"]


def floor(policy: Policy, epsilon: float) -> Policy:
    """The policy blended with the uniform one: p' = (1 - epsilon) p + epsilon / (eligible candidates), anew at each slot.

    `epsilon` in [0, 1]. Raises PolicyError outside it.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise PolicyError(f"policy.floor: {epsilon!r} is refused; give a share of traffic in [0, 1], say 0.05")

    def choose(scores: Any, mask: jax.Array) -> jax.Array:
        even = jnp.where(mask, 1.0, 0.0) / jnp.maximum(jnp.sum(mask, dtype=jnp.float64), 1.0)
        return (1.0 - epsilon) * policy.choose(scores, mask) + epsilon * even

    return policy._replace(choose=choose)
