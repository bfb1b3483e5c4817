"""Late rewards: what comes of a decision is known only some rounds later, and the policy decides on meanwhile."""

import jax
import jax.numpy as jnp

from bandits.errors import SimulationError
from bandits.simulation.environment import Environment

__all__ = ["delayed"]


def delayed(environment: Environment, *, mean_rounds: float, longest_rounds: int) -> Environment:
    """The environment with rewards late by a geometric number of rounds, P(delay >= k) = (mean / (1 + mean))^k, cut at `longest_rounds`.

    `mean_rounds` > 0, `longest_rounds` >= 1. Raises SimulationError outside these.
    """
    if not mean_rounds > 0.0 or longest_rounds < 1:
        raise SimulationError(f"delay: mean {mean_rounds}, longest {longest_rounds} is refused; give a mean > 0 and a longest >= 1")
    stays = mean_rounds / (1.0 + mean_rounds)

    def delay(key: jax.Array) -> jax.Array:
        # Inverse of the distribution function; log1p(-u) is finite, as u < 1.
        rounds = jnp.floor(jnp.log1p(-jax.random.uniform(key, (), jnp.float64)) / jnp.log(stays))
        return jnp.minimum(rounds, longest_rounds).astype(jnp.int32)

    return environment._replace(delay=delay, longest_delay=longest_rounds)
